"""Turns examples into laid-out token ids: tokenise, truncate, append the end token."""

import collections
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.tasks import Example, Mixture, Task
from prompt_tuning.data.vocabulary import Vocabulary, started
from prompt_tuning.rows import layouts
from prompt_tuning.rows.target_fields import LABEL_VALUES, with_fields
from prompt_tuning.rows.turns import Turns

FEATURES = ('inputs', 'targets')


class Preprocessor:
  """Turns examples into laid-out token ids, and counts truncations.

  The end token is appended after truncation, as in SeqIO: a text that is too long loses its last tokens, never its end
  token. Of a text that a template made, the columns' texts are cut, not the template's words; of a conversation, whole
  turns. An array of ids is used unchanged, except that a missing end token is added. `tasks` lists the keys of an
  example that have a meaning. `fields` names further keys, whose values the loss reads for each target.

  Attributes:
    truncated: how many 'inputs' and 'targets' were truncated, of how many 'examples'.
  """

  def __init__(self, vocabulary: Vocabulary, layout: layouts.Layout, lengths: Mapping[str, int],
               fields: Sequence[str] = ()):
    wrong = {name: length for name, length in lengths.items() if name not in FEATURES or length < 1}
    if wrong:
      raise ValueError(f'The feature lengths {wrong} are not valid. Give lengths for inputs and targets only, each at '
                       'least 1 (the end token).')
    self._vocabulary = vocabulary
    self._layout = layout
    self._lengths, self._fields = dict(lengths), fields
    self.truncated = collections.Counter(inputs=0, targets=0, examples=0)

  def __call__(self, example: Example, prompt_id: int = 0) -> layouts.Segment:
    """Returns the laid-out example, which uses the prompt of this number."""
    return weighted(self._layout, *self.ids(example), example, self._fields, prompt_id=prompt_id)

  def ids(self, example: Example) -> tuple[list[int], list[int]]:
    """Returns the token ids of inputs and targets."""
    self.truncated['examples'] += 1
    inputs = self._ids(example, 'inputs', ends=self._layout.input_ends)
    if getattr(self._layout, 'classes', 0) and isinstance(example.get('targets'), str):
      return inputs, self._layout.target_ids(example['targets'])
    return inputs, self._ids(example, 'targets', ends=True)

  def _ids(self, example: Example, feature: str, *, ends: bool) -> list[int]:
    if feature not in example:
      raise ValueError(f'An example has no {feature!r}; found {", ".join(map(repr, example)) or "nothing"}. '
                       'Give every example both inputs and targets.')
    value = example[feature]
    ids = self._encoded(value, feature)
    if feature == 'inputs' and len(ids) == 0:
      ids = stand_in(self._vocabulary, self._layout)
    ends = example.get(f'{feature}_ends', ends)
    if not isinstance(ends, bool | np.bool_):
      raise ValueError(f'An example has {feature}_ends={ends!r:.60}, expected True or False. Leave it out for True.')
    end = [end_of(example, self._vocabulary)] if ends else []
    room = self._lengths.get(feature, len(ids) + len(end)) - len(end)
    if len(ids) > room:
      self.truncated[feature] += 1
      fits = lambda shorter: len(self._encoded(shorter, feature)) <= room
      shorter = value.shortened(fits) if hasattr(value, 'shortened') else None
      ids = ids[:room] if shorter is None else self._encoded(shorter, feature)
    return [*ids, *end] if end else ids

  def _encoded(self, value: Any, feature: str) -> Any:
    """Returns the token ids of a text, with what stands before an input, or of an array of ids."""
    ids = _token_ids(value, self._vocabulary)
    return started(ids, self._vocabulary) if feature == 'inputs' and isinstance(value, str) else ids


def weighted(layout: layouts.Layout, inputs: Any, targets: Any, example: Example, fields: Sequence[str] = (),
             **prompt: Any) -> layouts.Segment:
  """Returns a laid-out example with the weights of training, also those of the assistant's turns within its input.

  Args:
    layout: the positions of tokens and prompt.
    inputs: token ids.
    targets: likewise.
    example: the example.
    fields: names of further keys of it, with a value for each target.
    prompt: see `Layout.example`.
  """
  found = layout.example(inputs, targets, loss_weight=loss_weight(example),
                         input_weights=getattr(inputs, 'weights', None), **prompt)
  if LABEL_VALUES in fields:
    example = {**example, LABEL_VALUES: [layout.values(example['targets'])]}
  missing = next((name for name in fields if name not in example), None)
  if missing is not None:
    raise ValueError(f'An example has no {missing!r}, which the loss reads; found {", ".join(map(repr, example))}. '
                     'Give data with it, such as the teacher file of a distilled document, or choose another loss.')
  return with_fields(found, {name: example[name] for name in fields}, vocab_size=layout.vocab_size) if fields else found


def stand_in(vocabulary: Vocabulary, layout: layouts.Layout) -> list[int]:
  """Returns what is read for an input without tokens: behind a prefix the begin token, if the model has one."""
  begin = getattr(vocabulary, 'bos_id', None)
  return [begin] if layout.prefixed and not layout.input_ends and begin is not None else []


def end_of(example: Example, vocabulary: Vocabulary) -> int:
  """Returns the end token of an example's targets. Raises ValueError if it is not an id."""
  found = example.get('targets_end', vocabulary.eos_id)
  if not isinstance(found, int | np.integer) or isinstance(found, bool):
    raise ValueError(f'An example has targets_end={found!r:.60}, expected a token id. Leave it out for that of the '
                     'vocabulary.')
  return int(found)


def loss_weight(example: Example) -> float:
  """Returns the loss weight of an example's targets. Raises ValueError if it is not a number of at least 0."""
  weight = example.get('loss_weight', 1.0)
  if not isinstance(weight, int | float | np.number) or not 0 <= weight < np.inf:
    raise ValueError(f'An example has loss_weight={weight!r:.60}, expected a number of at least 0. Fix it, or leave it '
                     'out for 1.')
  return float(weight)


def _token_ids(value: Any, vocabulary: Vocabulary) -> Any:
  """Returns the token ids of a text or an array of ids, without an end token; turns, and vectors [T, F], unchanged."""
  if isinstance(value, str):
    return vocabulary.encode(value)
  if isinstance(value, Turns):
    return value
  if isinstance(value, np.ndarray) and value.ndim == 2:
    return value
  try:
    ids = [operator.index(i) for i in (None if isinstance(value, bytes) else value)]
  except TypeError as error:
    raise ValueError(f'An example holds {value!r:.60}, which is neither a text nor token ids. Give a text or token ids.'
                     ) from error
  if ids and min(ids) < 0:
    raise ValueError(f'An example holds the token id {min(ids)}, but the first one is 0. Give ids of the vocabulary.')
  return ids[:-1] if ids and ids[-1] == vocabulary.eos_id else ids


def has_empty_inputs(task: Task | Mixture, split: str) -> bool:
  """Whether an input of a split that is held in memory is empty."""
  held = (part.split(split) for part, _ in task.parts(split))
  return any(len(example.get('inputs', ' ')) == 0 for each in held if isinstance(each, list) for example in each)


def row_lengths(layout: layouts.Layout, lengths: Mapping[str, int]) -> dict[str, int]:
  """Returns the array lengths T and S of a batch."""
  missing = set(FEATURES) - set(lengths)
  if missing:
    raise ValueError(f'The feature lengths {dict(lengths)} lack {sorted(missing)}. Give both, for example '
                     "{'inputs': 512, 'targets': 8}.")
  return layout.row_lengths(lengths)
