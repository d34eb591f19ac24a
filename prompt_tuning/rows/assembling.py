"""Puts laid-out examples into the rows of a batch, one or several per row; `layouts` describes the arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.types import Batch

Segment = dict[str, dict[str, np.ndarray]]  # stack -> name -> 1-D array of the example's own length
TARGET_STACK = 'decoder'  # what has targets, unless a layout names another stack
_STACK = {'tokens': (0, np.int32), 'segments': (0, np.int32), 'positions': (0, np.int32)}
_TARGETS = {'targets': (0, np.int32), 'loss_weights': (0, np.float32)}
_MEMORY = {'memory_segments': (0, np.int32)}
_OPTIONAL = {'prompt_slots': (-1, np.int32), 'bidirectional': (0, np.int32), 'features': (0, np.float32)}
_KNOWN = {*_STACK, *_TARGETS, *_MEMORY, *_OPTIONAL}  # others are fields that a loss reads


def target_stack(stacks: Mapping[str, Any]) -> str:
  """Returns the name of the stack that has targets, of a batch or of an example; `TARGET_STACK` if none has."""
  return next((name for name, arrays in stacks.items() if isinstance(arrays, Mapping) and 'targets' in arrays),
              TARGET_STACK)


def target_rows(batch: Batch) -> dict[str, Any]:
  """Returns the arrays of the stack that has targets."""
  return batch[target_stack(batch)]


def assemble(rows: Sequence[Sequence[Segment]], lengths: Mapping[str, int], *, side: str = 'right',
             first_id: int = 0, members: int = 1) -> Batch:
  """Puts examples into the rows of one batch.

  Args:
    rows: each row's examples; several are packed in order, an empty list is a row of padding.
    lengths: T for 'encoder' and S for 'decoder'; a decoder-only model has only the latter.
    side: the padding side, 'right' or 'left'.
    first_id: the index of the first row in the whole stream.
    members: M, so many consecutive rows read one example and have its index.

  Returns:
    The batch, as `layouts` describes it.

  Raises:
    ValueError: a row is longer than `lengths` allow, or the targets of rows of one example are in different columns.
  """
  count = len(rows)
  first = next((row[0] for row in rows if row), {})
  fields = dict.fromkeys(lengths, _STACK)
  fields[target_stack(first)] = _STACK | _TARGETS | (_MEMORY if 'encoder' in lengths else {})
  further = {name: np.shape(array)[1:] for name, array in first.get(target_stack(first), {}).items()
             if name not in _KNOWN}
  fields = {stack: wanted | {name: _OPTIONAL.get(name, (0, array.dtype)) for name, array in first.get(stack, {}).items()
                             if name in _OPTIONAL or name in further} for stack, wanted in fields.items()}
  batch: Batch = {
    stack: {name: np.full((count, lengths[stack], *np.shape(first.get(stack, {}).get(name))[1:]), fill, dtype)
            for name, (fill, dtype) in wanted.items()}
    for stack, wanted in fields.items()}
  batch['prompt_ids'] = np.zeros((count, max([1, *map(len, rows)])), np.int32)
  batch['example_ids'] = first_id + np.arange(count, dtype=np.int32) // members
  for b, examples in enumerate(rows):
    for example in examples:
      _require_fields(example, further)
    for stack in lengths:
      _fill_row(batch[stack], b, [example[stack] for example in examples], side, stack)
    for g, example in enumerate(examples):
      batch['prompt_ids'][b, g] = example['prompt']['id']
  weights = target_rows(batch)['loss_weights']
  if members > 1 and not (weights.reshape(-1, members, weights.shape[1]) == weights[::members, None]).all():
    raise ValueError('The members of an ensemble predict the targets of an example at different positions. Use prompts '
                     "of one placement and length, or kind='vote'.")
  return batch


def beside(batches: Sequence[Batch]) -> Batch:
  """Returns one batch of the rows of several, one batch after the other; rows are padded to the longest at the right.

  `prompt_ids` of a row becomes the index of its batch.
  """
  numbered = [{**batch, 'prompt_ids': np.full_like(batch['prompt_ids'], i)} for i, batch in enumerate(batches)]
  return _joined(numbered, fill=0)


def _joined(trees: Sequence[Any], fill: int) -> Any:
  """Returns the arrays of trees of one structure joined along rows, padded with `fill`, or what a name pads with."""
  if isinstance(trees[0], Mapping):
    return {name: _joined([tree[name] for tree in trees], _OPTIONAL.get(name, (fill,))[0]) for name in trees[0]}
  if len({tree.shape[2:] for tree in trees}) > 1:
    raise ValueError(f'Runs that are trained together have fields of different shapes: '
                     f'{" and ".join(str(tree.shape[2:]) for tree in trees)} for each target. Use data with as many '
                     'numbers for each, such as teacher files of one top=.')
  longest = max(tree.shape[1:2] for tree in trees)
  widths = lambda tree: [(0, 0)] + [(0, most - size) for most, size in zip(longest, tree.shape[1:2], strict=True)] + (
    [(0, 0)] * (tree.ndim - 2))
  return np.concatenate([np.pad(tree, widths(tree), constant_values=fill) for tree in trees])


def _require_fields(example: Segment, wanted: Mapping[str, tuple[int, ...]]) -> None:
  """Raises ValueError if an example lacks a field that a loss reads, or has one of another shape."""
  found = {name: np.shape(array)[1:] for name, array in example[target_stack(example)].items() if name not in _KNOWN}
  if found != wanted:
    raise ValueError(f'Examples of a batch have fields of different shapes for each target: {found} and '
                     f'{dict(wanted)}. Use data of one kind, such as teacher files with as many tokens (top=).')


def _fill_row(arrays: dict[str, Any], b: int, examples: Sequence[Mapping[str, np.ndarray]], side: str,
              stack: str) -> None:
  capacity = arrays['tokens'].shape[1]
  total = sum(len(example['tokens']) for example in examples)
  if total > capacity:
    raise ValueError(f'A row of the {stack} needs {total} positions, but its length is {capacity}. '
                     'Truncate the text, or increase the task feature lengths.')
  at = capacity - total if side == 'left' else 0
  for segment, example in enumerate(examples, start=1):
    span = slice(at, at + len(example['tokens']))
    for name, values in example.items():
      arrays[name][b, span] = values
    arrays['segments'][b, span] = segment
    arrays['positions'][b, span] = np.arange(len(example['tokens']))
    if 'memory_segments' in arrays:
      arrays['memory_segments'][b, span] = segment
    at = span.stop
