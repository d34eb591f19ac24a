"""Where things stand in a sequence, as data.

A layout turns the token ids of an example into arrays; `assemble` puts examples into the rows of a batch, one
or (packed) several to a row. Prompt first, after BOS, before EOS or after the text, padded left or right: all
are arrays of the same names, and the model needs no other mask for any of them.

Arrays of one stack, `[B, T]`:
  tokens: token ids; 0 where there is none.
  prompt_slots: -1 for a token, else the index into the prompt's vectors.
  segments: 0 is padding; 1, 2, … count the examples of a row.
  positions: 0, 1, … within a segment.
The stack of the targets, which the layout names (`target_stack`) and `target_rows` finds, has also:
  targets, loss_weights: what each position shall predict, and how much that counts.
  memory_segments: which encoder segment a position reads.
A decoder-only model has the stack 'decoder' alone, with input and target in one row, and perhaps
  bidirectional: 1 where the positions of a prefix-LM see one another,
  features: [B, T, F] real vectors that are read instead of tokens.
Where inputs are cached, a second stack 'context' holds their tokens, and the decoder's rows what stands behind them.
There are no `prompt_slots` where the prompt stands in front of the whole row and sees nothing of it: then the model
runs it once for all rows.
Beside the stacks: `prompt_ids` `[B, G]`, the prompt that each of a row's G segments uses, and `example_ids`
`[B]`, the row's number in the whole stream (dropout depends on it, so not on the batch it stands in).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.rows.assembling import TARGET_STACK, Example, assemble, target_rows

__all__ = ['PLACEMENTS', 'CausalLayout', 'Example', 'LabelLayout', 'Layout', 'Placement', 'after_bos', 'after_eos',
           'assemble', 'before', 'before_eos', 'target_rows']
Placement = Callable[[int, int], np.ndarray]


def before(count: int, length: int) -> np.ndarray:
  """Puts the prompt in front of the text. Returns the slots `[length + count]`."""
  return _insert(count, length, 0)


def after_bos(count: int, length: int) -> np.ndarray:
  """Puts the prompt behind the first token."""
  return _insert(count, length, min(1, count))


def before_eos(count: int, length: int) -> np.ndarray:
  """Puts the prompt in front of the last token, at each row's own end."""
  return _insert(count, length, max(0, count - 1))


def after_eos(count: int, length: int) -> np.ndarray:
  """Puts the prompt behind the last token, at each row's own end."""
  return _insert(count, length, count)


PLACEMENTS: Mapping[str, Placement] = {f.__name__: f for f in (before, after_bos, before_eos, after_eos)}


def _insert(count: int, length: int, at: int) -> np.ndarray:
  slots = np.full(count + length, -1, np.int32)
  slots[at:at + length] = np.arange(length)
  return slots


@dataclasses.dataclass(frozen=True)
class Layout:
  """How an encoder-decoder model's examples are laid out.

  Attributes:
    prompt_length: P, how many prompt vectors the encoder reads; 0 is none.
    placement: where they stand among the input's tokens: a function `(count of tokens, P) -> slots`.
    start_id: the token that the decoder starts with.
    alone: the prompt sees nothing of the input.
    cached: inputs stand apart from the rows, which begin with the prompt: their keys and values are computed once.
    started: the token `start_id` is there; not where rows go on from a text that was read before.
  """

  prompt_length: int = 0
  placement: Placement = before
  start_id: int = 0
  alone: bool = False
  cached: bool = False
  started: bool = True
  stacks = ('encoder', 'decoder')
  target_stack = TARGET_STACK
  input_ends = True  # inputs have an end token
  question_side = 'right'  # of the padding of rows that are to be answered

  @property
  def in_front(self) -> bool:
    """Whether the prompt stands in front of the whole row and sees nothing of it: then the row has no slots for it."""
    return self.placement is before and self.alone

  def rows(self, lengths: Mapping[str, int]) -> dict[str, int]:
    """Returns how long the rows of each stack are for texts of at most `lengths` tokens of 'inputs' and 'targets'."""
    slots = 0 if self.in_front else self.prompt_length
    return {'encoder': lengths['inputs'] + slots, self.target_stack: lengths['targets']}

  def question_rows(self, lengths: Mapping[str, int]) -> dict[str, int]:
    """Returns how long the rows of inputs are that are to be answered."""
    return self.rows(lengths)

  def question(self, inputs: Sequence[int], **prompt: Any) -> Example:
    """Lays out an input that is to be answered."""
    return self.example(inputs, [], **prompt)

  def example(self, inputs: Sequence[int], targets: Sequence[int], *, prompt_length: int | None = None,
              prompt_id: int = 0, loss_weight: float = 1.0) -> Example:
    """Lays one example out.

    Args:
      inputs: token ids of the encoder's text, end token included where the model expects one.
      targets: token ids to predict; the decoder reads them shifted right.
      prompt_length: the length of this example's own prompt, where rows differ; 0 is no prompt.
      prompt_id: which of the batch's prompts this example uses.
      loss_weight: how much each of its targets counts.

    Returns:
      1-D arrays of the example's own length for each stack.
    """
    targets = np.asarray(targets, np.int32)
    return {
      'encoder': self._arranged(inputs, prompt_length),
      self.target_stack: {
        'tokens': np.concatenate([[self.start_id], targets[:-1]]).astype(np.int32)[:len(targets)],
        'targets': targets,
        'loss_weights': np.full(len(targets), loss_weight, np.float32),
      },
      'prompt': {'id': np.asarray(prompt_id, np.int32)},
    }

  def _arranged(self, inputs: Sequence[int], prompt_length: int | None) -> dict[str, np.ndarray]:
    """Returns the input's tokens with the prompt's slots among them."""
    length = self.prompt_length if prompt_length is None else prompt_length
    slots = self.placement(len(inputs), 0 if self.in_front else length)
    tokens = np.zeros(len(slots), np.int32)
    tokens[slots < 0] = np.asarray(inputs, np.int32)
    return {'tokens': tokens} if self.in_front else {'tokens': tokens, 'prompt_slots': slots}


@dataclasses.dataclass(frozen=True)
class CausalLayout(Layout):
  """How a decoder-only model's examples are laid out: the input, then the target, which it predicts.

  Attributes:
    prefix_lm: the input's positions see one another.
    started: every text begins with the token `start_id`, and inputs have an end token: the rows of T5X.
  """

  prefix_lm: bool = False
  started: bool = False
  stacks = ('decoder',)
  question_side = 'left'  # so that every row's last token stands in the last column

  @property
  def in_front(self) -> bool:
    """See `Layout.in_front`: in a causal model what stands in front sees nothing anyway."""
    return self.placement is before and (self.alone or not self.prefix_lm)

  @property
  def input_ends(self) -> bool:
    """Whether inputs have an end token."""
    return self.started

  def rows(self, lengths: Mapping[str, int]) -> dict[str, int]:
    """Returns the length of the rows: the last token is predicted, not read."""
    if self.cached:
      return {'context': lengths['inputs'] + self.started,
              self.target_stack: self.prompt_length + lengths['targets'] - 1}
    return {name: length + lengths['targets'] - 1 for name, length in self.question_rows(lengths).items()}

  def question_rows(self, lengths: Mapping[str, int]) -> dict[str, int]:
    """Returns the length of rows of inputs alone."""
    return {self.target_stack: lengths['inputs'] + self.started + (0 if self.in_front else self.prompt_length)}

  def example(self, inputs: Sequence[int], targets: Sequence[int], *, prompt_length: int | None = None,
              prompt_id: int = 0, loss_weight: float = 1.0) -> Example:
    """Lays one example out; see `Layout.example`.

    Raises:
      ValueError: input and prompt are empty, so that nothing predicts the first target.
    """
    inputs = np.asarray([self.start_id, *inputs] if self.started else inputs, np.int32)
    arranged = self._arranged([] if self.cached else inputs, prompt_length)
    count = len(arranged['tokens'])
    targets = np.asarray(targets, np.int32)
    if count == 0 and len(targets):
      raise ValueError('An example has no input, and no begin token or prompt in its row, from which its first token '
                       'could be predicted. Give an input.')
    predicting = slice(count - 1, count - 1 + len(targets))
    total = count + max(0, len(targets) - 1)
    arrays = {name: np.concatenate([array, np.full(total - count, 0 if name == 'tokens' else -1, np.int32)])
              for name, array in arranged.items()}
    arrays['tokens'][count:] = targets[:-1]
    arrays |= {'targets': np.zeros(total, np.int32), 'loss_weights': np.zeros(total, np.float32)}
    arrays['targets'][predicting] = targets
    arrays['loss_weights'][predicting] = loss_weight
    if self.prefix_lm:
      arrays['bidirectional'] = (np.arange(total) < count).astype(np.int32)
    apart = {'context': {'tokens': inputs}} if self.cached else {}
    return {**apart, self.target_stack: arrays, 'prompt': {'id': np.asarray(prompt_id, np.int32)}}


@dataclasses.dataclass(frozen=True)
class LabelLayout(CausalLayout):
  """How a decoder-only model's examples are laid out that give positions of the input labels of their own.

  The last positions of the input, as many as there are targets, predict one target each; no target is read. An input is
  token ids, or real vectors [T, F], which become the array `features`.

  Attributes:
    classes: how many labels there are; 0 is not checked.
    inputs: how many tokens there are, or the width F of vectors; 0 is not checked.
  """

  classes: int = 0
  inputs: int = 0

  def rows(self, lengths: Mapping[str, int]) -> dict[str, int]:
    """Returns the length of the rows: that of the inputs."""
    return self.question_rows(lengths)

  def example(self, inputs: Any, targets: Sequence[int], *, prompt_length: int | None = None, prompt_id: int = 0,
              loss_weight: float = 1.0) -> Example:
    """Lays one example out; see `Layout.example`.

    Raises:
      ValueError: there are more targets than inputs, a label that the output layer lacks, or an input that the input
        layer cannot read.
    """
    count = len(targets)
    self._require_ends(inputs, targets)
    if count > len(inputs):
      raise ValueError(f'An example has {count} labels for an input of {len(inputs)} positions. Give at most one for '
                       'each position.')
    vectors = np.asarray(inputs, np.float32) if np.ndim(inputs) == 2 else None
    arrays = self._arranged(np.zeros(len(inputs), np.int32) if vectors is not None else inputs, prompt_length)
    total = len(arrays['tokens'])
    own = arrays.get('prompt_slots', np.full(total, -1)) < 0  # the input's positions
    if vectors is not None:
      arrays['features'] = np.zeros((total, vectors.shape[1]), np.float32)
      arrays['features'][own] = vectors
    arrays |= {'targets': np.zeros(total, np.int32), 'loss_weights': np.zeros(total, np.float32)}
    labelled = np.flatnonzero(own)[len(inputs) - count:]
    arrays['targets'][labelled] = targets
    arrays['loss_weights'][labelled] = loss_weight
    return {self.target_stack: arrays, 'prompt': {'id': np.asarray(prompt_id, np.int32)}}

  def _require_ends(self, inputs: Any, targets: Sequence[int]) -> None:
    """Raises ValueError where an example does not fit the model's input or output layer."""
    if self.classes and len(targets) and not 0 <= min(targets) <= max(targets) < self.classes:
      raise ValueError(f'An example has the labels {list(map(int, targets))[:5]}, but the output layer has '
                       f'{self.classes} classes, 0 to {self.classes - 1}. Set architectures.NewEnds.classes to more.')
    if self.inputs and np.ndim(inputs) == 2 and np.shape(inputs)[1] != self.inputs:
      raise ValueError(f'An input has vectors of {np.shape(inputs)[1]} numbers, but the input layer reads '
                       f'{self.inputs}. Set architectures.NewEnds.features to that number.')
    if self.inputs and np.ndim(inputs) == 1 and len(inputs) and max(inputs) >= self.inputs:
      raise ValueError(f'An input has the token {int(max(inputs))}, but the input layer knows {self.inputs}, 0 to '
                       f'{self.inputs - 1}. Set architectures.NewEnds.tokens to more.')
