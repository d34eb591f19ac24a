"""From examples to token ids that are laid out: tokenise, cut, append the end token."""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning.data.tasks import Example
from prompt_tuning.data.vocabularies import Vocabulary
from prompt_tuning.rows import layouts

FEATURES = ('inputs', 'targets')


class Preprocessor:
  """Turns examples into laid-out token ids, and counts what it had to cut.

  The end token is appended after trimming, as SeqIO does: a text that is too long loses its last tokens, never
  its end token. An array of ids is taken as it is, with an end token if it lacks one. Where an example says
  `inputs_ends` or `targets_ends` False, that part has no end token (as the start of a text that goes on). An
  example's `loss_weight`, if it has one, says how much its targets count.

  Attributes:
    truncated: how many 'inputs' and 'targets' were cut, of how many 'examples'.
  """

  def __init__(self, vocabulary: Vocabulary, layout: layouts.Layout, lengths: Mapping[str, int]):
    wrong = {name: length for name, length in lengths.items() if name not in FEATURES or length < 1}
    if wrong:
      raise ValueError(f'The feature lengths {wrong} cannot be used. Give lengths of at least 1 (the end token) for '
                       'inputs and targets.')
    self._vocabulary = vocabulary
    self._layout = layout
    self._lengths = dict(lengths)
    self.truncated = collections.Counter(inputs=0, targets=0, examples=0)

  def __call__(self, example: Example) -> layouts.Example:
    """Returns the example laid out."""
    inputs, targets = self.ids(example)
    return self._layout.example(inputs, targets, loss_weight=float(example.get('loss_weight', 1.0)))

  def ids(self, example: Example) -> tuple[list[int], list[int]]:
    """Returns the token ids of inputs and targets."""
    self.truncated['examples'] += 1
    inputs = self._ids(example, 'inputs', ends=self._layout.input_ends)
    return inputs, self._ids(example, 'targets', ends=True)

  def _ids(self, example: Example, feature: str, *, ends: bool) -> list[int]:
    if feature not in example:
      raise ValueError(f'An example has no {feature!r}; found {", ".join(map(repr, example)) or "nothing"}. '
                       'Give every example both inputs and targets.')
    ids = _token_ids(example[feature], self._vocabulary)
    if feature == 'inputs' and isinstance(example[feature], str):
      ids = [*getattr(self._vocabulary, 'start', ()), *ids]
    end = [self._vocabulary.eos_id] if example.get(f'{feature}_ends', ends) else []
    room = self._lengths.get(feature, len(ids) + len(end)) - len(end)
    if len(ids) > room:
      self.truncated[feature] += 1
      ids = ids[:room]
    return [*ids, *end] if end else ids


def _token_ids(value: Any, vocabulary: Vocabulary) -> Any:
  """Returns token ids of a text or of ids, without an end token; real vectors [T, F] as they are."""
  if isinstance(value, str):
    return vocabulary.encode(value)
  if isinstance(value, np.ndarray) and value.ndim == 2:
    return value
  try:
    ids = [int(i) for i in value]
  except (TypeError, ValueError) as error:
    raise ValueError(f'An example holds {value!r:.60}, which is neither a text nor token ids. Give one of both.'
                     ) from error
  return ids[:-1] if ids and ids[-1] == vocabulary.eos_id else ids
