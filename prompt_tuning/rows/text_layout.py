"""The layout of an encoder-only model's examples: a text, and perhaps a label."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_tuning.names import nearest
from prompt_tuning.rows.assembling import Segment
from prompt_tuning.rows.layouts import CausalLayout

HEAD = r'decoder/logits_dense/(kernel|bias)'  # the names of a classification head's parameters


@dataclasses.dataclass(frozen=True)
class TextLayout(CausalLayout):
  """The layout of a bidirectional model's examples: a row is a text, whose first position predicts its label.

  Every position sees the whole row, so a prompt always has slots in it. The first position is the first token, or the
  first vector of a prompt before the text.

  Attributes:
    classes: the number of outputs of the head; 0 without one.
    labels: the names of the outputs, if they have some.
    problem: 'single', 'multi' or 'regression', see `EncoderConfig`.
    masks: how many mask tokens every text has; 0 means any number.
    mask_id: the mask token.
  """

  classes: int = 0
  labels: tuple[str, ...] = ()
  problem: str = 'single'
  masks: int = 0
  mask_id: int = 0
  input_ends = True  # [SEP]
  in_front = False
  question_side = 'right'

  def row_lengths(self, lengths: dict[str, int]) -> dict[str, int]:
    """Returns the row length: that of the text and the prompt."""
    return self.question_lengths(lengths)

  def example(self, inputs: Any, targets: Sequence[int], *, prompt_length: int | None = None, prompt_id: int = 0,
              loss_weight: float = 1.0, input_weights: Any = None) -> Segment:
    """Lays out one text; `targets` is its label, or empty. See `Layout.example`.

    Raises:
      ValueError: the text and the prompt are empty, there are several labels, the head has no such label, or the text
        has another number of masks.
    """
    self._require_ids(inputs, ())
    if input_weights is not None and np.any(input_weights):
      raise ValueError('train_on=all cannot be used with an encoder-only model, which predicts a label, not turns. '
                       'Leave it out.')
    if len(targets) > 1:
      raise ValueError(f'An example has {len(targets)} targets, but an encoder-only model predicts one label for each '
                       'text, and writes no texts. Give it a label, or use a model with a decoder.')
    if self.classes and self.problem == 'single' and len(targets) and not 0 <= targets[0] < self.classes:
      raise ValueError(f'An example has the label {int(targets[0])}, but the head has {self.classes} labels, 0 to '
                       f'{self.classes - 1}. Give the head all labels.')
    found = int(np.sum(np.asarray(inputs) == self.mask_id)) if self.masks else 0
    if found != self.masks:
      raise ValueError(f'An input has {found} mask tokens (id {self.mask_id}), but the words of the verbaliser have '
                       f'{self.masks} token{"s" * (self.masks > 1)}. Write as many masks into the template, as in '
                       '"{text} It was [MASK].", and keep them within max_input_length=.')
    arrays = self._arranged(inputs, prompt_length)
    total = len(arrays['tokens'])
    if total == 0:
      raise ValueError('An input has no token, and there is no prompt. Give it a text.')
    arrays |= {'targets': np.zeros(total, np.int32), 'loss_weights': np.zeros(total, np.float32)}
    arrays['targets'][:len(targets)] = targets
    arrays['loss_weights'][:len(targets)] = loss_weight
    return {self.target_stack: arrays, 'prompt': {'id': np.asarray(prompt_id, np.int32)}}

  def target_ids(self, text: str) -> list[int]:
    """Returns the target of an example: the number of its label, or 0 if the loss reads `values` instead.

    Raises:
      ValueError: see `values`.
    """
    values = self.values(text)
    return [int(np.argmax(values))] if self.problem == 'single' else [0]

  def values(self, text: str) -> np.ndarray:
    """Returns what the outputs of the head must be [classes]: 1 for each given label, or the number.

    Args:
      text: a label; of several, labels separated by commas, or nothing; of a regression, a number.

    Raises:
      ValueError: the head has no such label, or the text is not a number.
    """
    if self.problem == 'regression':
      return np.full(1, _number(text), np.float32)
    names = [text] if self.problem == 'single' else [name.strip() for name in text.split(',') if name.strip()]
    for name in names:
      if name not in self.labels:
        raise ValueError(f'The head has no label {name!r:.60}. Its labels are {", ".join(map(repr, self.labels[:20]))}.'
                         f'{nearest(name, self.labels)} Fix the example, or give the head all labels.')
    return np.array([label in names for label in self.labels], np.float32)


def _number(text: str) -> float:
  """Returns a text as a finite number; raises ValueError if it is not one."""
  try:
    number = float(text)
  except ValueError:
    number = np.nan
  if not np.isfinite(number):
    raise ValueError(f'The score {text!r:.60} is not a number, which problem=regression needs. Fix the example.')
  return number
