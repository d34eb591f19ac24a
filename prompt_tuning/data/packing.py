"""Packing: several examples in one row, so that short ones need little padding."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from prompt_tuning.rows import layouts
from prompt_tuning.rows.assembling import target_stack

Row = list[layouts.Segment]
_MULTIPLE = 8  # measured lengths are rounded up to it


def pack(examples: Sequence[layouts.Segment], lengths: Mapping[str, int], *, most: int) -> list[Row]:
  """Returns rows that hold every example once: each goes into the first row with room for it in every stack.

  Args:
    examples: laid-out examples.
    lengths: row lengths by stack.
    most: the maximum number of examples per row; 1 disables packing.
  """
  if most == 1:
    return [[example] for example in examples]
  capacity = np.array([*lengths.values(), most])
  room = np.tile(capacity, (len(examples), 1))  # [rows that may be needed, stacks + 1]
  rows: list[Row] = []
  for example in examples:
    size = [*(len(example[stack]['tokens']) for stack in lengths), 1]
    # The row after the last used one is empty, so the search always succeeds.
    first = int(np.argmax((room[:len(rows) + 1] >= size).all(axis=1)))
    if first == len(rows):
      rows.append([])
    rows[first].append(example)
    room[first] -= size
  return rows


def make_room(examples: Sequence[layouts.Segment], lengths: Mapping[str, int]) -> dict[str, int]:
  """Returns row lengths for which inputs decide how many examples fit: the decoder of an encoder-decoder gets longer.

  With short inputs, an encoder row holds many examples, whose targets together are longer than those of one. The
  returned decoder length fits the targets of nine rows in ten, if inputs alone fill the rows.

  Args:
    examples: typical laid-out examples.
    lengths: row lengths by stack, for one example.
  """
  if 'encoder' not in lengths:
    return dict(lengths)
  rows = pack(examples, {'encoder': lengths['encoder']}, most=len(examples))
  targets = target_stack(examples[0])
  needed = np.quantile([sum(len(example[targets]['tokens']) for example in row) for row in rows], 0.9)
  return {**lengths, targets: max(lengths[targets], math.ceil(needed / _MULTIPLE) * _MULTIPLE)}
