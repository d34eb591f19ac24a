"""Layouts: the positions of tokens and prompt in a sequence, as data.

A layout turns the token ids of an example into arrays; `assemble` puts examples into the rows of a batch, one or
(packed) several per row. The prompt may come first, after BOS, before EOS, after the text or in a turn of a
conversation, and padding may be left or right: the arrays have the same names in all cases, and the model needs no
other mask.

Arrays of one stack, `[B, T]`:
  tokens: token ids; 0 for positions without a token.
  prompt_slots: -1 for a token, else the index into the prompt's vectors.
  segments: 0 is padding; 1, 2, … count the examples of a row.
  positions: 0, 1, … within a segment.
The stack of the targets, which the layout names (`target_stack`) and `target_rows` finds, also has:
  targets, loss_weights: the token that each position must predict, and its weight in the loss.
  memory_segments: the encoder segment that a position reads.
A decoder-only model has only the stack 'decoder', with input and target in one row, and optionally
  bidirectional: 1 for positions of a prefix-LM that see one another,
  features: [B, T, F] real vectors that are read instead of tokens.
If inputs are cached, a second stack 'context' holds their tokens, and the decoder's rows hold the rest.
If the prompt comes before the whole row and sees nothing of it, there are no `prompt_slots`: the model runs the prompt
once for all rows.
In addition to the stacks, a batch has `prompt_ids` `[B, G]`, the prompt that each of a row's G segments uses, and
`example_ids` `[B]`, the row's index in the whole stream (dropout depends on it, and therefore not on the batch).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.rows.assembling import TARGET_STACK, Segment, assemble, target_rows
from prompt_tuning.rows.placements import (
  IN_TURNS,
  PLACEMENTS,
  Placement,
  after_bos,
  after_eos,
  at_system,
  at_user,
  before,
  before_eos,
  place,
)
from prompt_tuning.rows.token_ids import require_ids

__all__ = ['IN_TURNS', 'PLACEMENTS', 'CausalLayout', 'LabelLayout', 'Layout', 'Placement', 'Segment', 'after_bos',
           'after_eos', 'assemble', 'at_system', 'at_user', 'before', 'before_eos', 'target_rows']


@dataclasses.dataclass(frozen=True)
class Layout:
  """The layout of an encoder-decoder model's examples.

  Attributes:
    prompt_length: P, the number of prompt vectors that the encoder reads; 0 means none.
    placement: their position among the input's tokens, see `placements`.
    start_id: the token that the decoder starts with.
    isolated: the prompt sees nothing of the input.
    cached: inputs are separate from the rows, which begin with the prompt: keys and values of inputs are computed once.
    started: rows begin with the token `start_id`; False if rows continue a cached context.
    within: the prompt has slots in the rows even where it could come before them: the last vector of a prompt predicts
      the first target of an input without tokens.
    prefixed: keys and values come before the rows, so that a begin token can stand for an input without tokens.
    vocab_size: V, rows of the embedding that token ids are checked against; 0 does not check.
    ended: inputs have an end token; decoder-only models follow `started`.
  """

  prompt_length: int = 0
  placement: Placement = before
  start_id: int = 0
  isolated: bool = False
  cached: bool = False
  started: bool = True
  within: bool = False
  prefixed: bool = False
  vocab_size: int = 0
  ended: bool = True
  stacks = ('encoder', 'decoder')
  target_stack = TARGET_STACK
  question_side = 'right'  # padding side for generation

  @property
  def input_ends(self) -> bool:
    """Whether inputs have an end token."""
    return self.ended

  @property
  def in_front(self) -> bool:
    """Whether the prompt comes before the whole row and sees nothing of it: then the row has no slots for it."""
    return self.placement is before and self.isolated and not self.within

  def row_lengths(self, lengths: Mapping[str, int]) -> dict[str, int]:
    """Returns the row length of each stack for texts of at most `lengths` tokens of 'inputs' and 'targets'."""
    slots = 0 if self.in_front else self.prompt_length
    return {'encoder': lengths['inputs'] + slots, self.target_stack: lengths['targets']}

  def question_lengths(self, lengths: Mapping[str, int]) -> dict[str, int]:
    """Returns the row length of each stack for generation."""
    return self.row_lengths(lengths)

  def question(self, inputs: Sequence[int], **prompt: Any) -> Segment:
    """Lays out an input for generation."""
    return self.example(inputs, [], **prompt)

  def example(self, inputs: Sequence[int], targets: Sequence[int], *, prompt_length: int | None = None,
              prompt_id: int = 0, loss_weight: float = 1.0, input_weights: Any = None) -> Segment:
    """Lays out one example.

    Args:
      inputs: token ids of the encoder's text, including the end token if the model expects one; or `Turns`.
      targets: token ids to predict; the decoder reads them shifted right.
      prompt_length: the length of this example's prompt, if lengths differ between rows; 0 means no prompt.
      prompt_id: the index of the batch's prompt that this example uses.
      loss_weight: the loss weight of each of its targets.
      input_weights: the loss weight of each input token as a further target; only where input and target are one row.

    Returns:
      1-D arrays of the example's length for each stack.

    Raises:
      ValueError: input and prompt are empty, the embedding has no row for a token, or input tokens cannot be targets.
    """
    self._require_ids(inputs, targets)
    _require_no_weights(input_weights, 'the encoder reads the input')
    targets = np.asarray(targets, np.int32)
    encoder = self._arranged(inputs, prompt_length)
    if len(encoder['tokens']) == 0 and not (self.in_front and self.prompt_length):
      raise ValueError('An input has no token, and there is no prompt. Give it a text.')
    return {
      'encoder': encoder,
      self.target_stack: {
        'tokens': np.concatenate([[self.start_id], targets[:-1]]).astype(np.int32)[:len(targets)],
        'targets': targets,
        'loss_weights': np.full(len(targets), loss_weight, np.float32),
      },
      'prompt': {'id': np.asarray(prompt_id, np.int32)},
    }

  def _require_ids(self, inputs: Sequence[int], targets: Sequence[int]) -> None:
    """Raises ValueError if the embedding has no row for a token."""
    require_ids(inputs, self.vocab_size, 'An input')
    require_ids(targets, self.vocab_size, 'A target')

  def _arranged(self, inputs: Sequence[int], prompt_length: int | None, begin: Sequence[int] = ()) -> dict[str, Any]:
    """Returns the input's tokens, after those of `begin`, with the prompt's slots among them."""
    length = self.prompt_length if prompt_length is None else prompt_length
    slots = place(self.placement, inputs, 0 if self.in_front else length, started=bool(begin))
    tokens = np.zeros(len(slots), np.int32)
    tokens[slots < 0] = [*begin, *inputs] if begin else np.asarray(inputs, np.int32)
    return {'tokens': tokens} if self.in_front else {'tokens': tokens, 'prompt_slots': slots}


@dataclasses.dataclass(frozen=True)
class CausalLayout(Layout):
  """The layout of a decoder-only model's examples: the input, followed by the target.

  Attributes:
    prefix_lm: the input's positions see one another.
    started: every text begins with the token `start_id`, and inputs have an end token, as in T5X.
  """

  prefix_lm: bool = False
  started: bool = False
  stacks = ('decoder',)
  question_side = 'left'  # so that every row's last token is in the last column

  @property
  def in_front(self) -> bool:
    """See `Layout.in_front`: in a causal model, a prompt before the row sees nothing of it anyway."""
    return self.placement is before and (self.isolated or not self.prefix_lm) and not self.within

  @property
  def input_ends(self) -> bool:
    """Whether inputs have an end token."""
    return self.started

  def row_lengths(self, lengths: Mapping[str, int]) -> dict[str, int]:
    """Returns the row lengths: the last token is predicted, not read."""
    if self.cached:
      return {'context': lengths['inputs'] + self.started,
              self.target_stack: self.prompt_length + lengths['targets'] - 1}
    return {name: length + lengths['targets'] - 1 for name, length in self.question_lengths(lengths).items()}

  def question_lengths(self, lengths: Mapping[str, int]) -> dict[str, int]:
    """Returns the row lengths for inputs without targets."""
    return {self.target_stack: lengths['inputs'] + self.started + (0 if self.in_front else self.prompt_length)}

  def example(self, inputs: Sequence[int], targets: Sequence[int], *, prompt_length: int | None = None,
              prompt_id: int = 0, loss_weight: float = 1.0, input_weights: Any = None) -> Segment:
    """Lays out one example; see `Layout.example`.

    Raises:
      ValueError: input and prompt are empty, so that no position predicts the first target; the embedding has no row
        for a token; or input tokens cannot be targets.
    """
    self._require_ids(inputs, targets)
    if self.cached or self.prefix_lm:
      _require_no_weights(input_weights, 'inputs are cached' if self.cached else 'in a prefix-LM the input sees itself')
    begin = [self.start_id] if self.started else []
    arranged = self._arranged([], prompt_length) if self.cached else self._arranged(inputs, prompt_length, begin)
    count = len(arranged['tokens'])
    targets = np.asarray(targets, np.int32)
    if count == 0:
      raise ValueError('An input has no token, and neither a begin token nor a prompt to predict the first token from. '
                       'Give it a text.')
    predicting = slice(count - 1, count - 1 + len(targets))
    total = count + max(0, len(targets) - 1)
    arrays = {name: np.concatenate([array, np.full(total - count, 0 if name == 'tokens' else -1, np.int32)])
              for name, array in arranged.items()}
    arrays['tokens'][count:] = targets[:-1]
    arrays |= {'targets': np.zeros(total, np.int32), 'loss_weights': np.zeros(total, np.float32)}
    arrays['targets'][predicting] = targets
    arrays['loss_weights'][predicting] = loss_weight
    if input_weights is not None:
      own = np.flatnonzero(arranged.get('prompt_slots', np.full(count, -1)) < 0)[len(begin):]  # the input's positions
      trained = np.flatnonzero(input_weights)
      arrays['targets'][own[trained] - 1] = arrays['tokens'][own[trained]]
      arrays['loss_weights'][own[trained] - 1] = loss_weight * np.asarray(input_weights, np.float32)[trained]
    if self.prefix_lm:
      arrays['bidirectional'] = (np.arange(total) < count).astype(np.int32)
    apart = {'context': {'tokens': np.asarray([*begin, *inputs], np.int32)}} if self.cached else {}
    return {**apart, self.target_stack: arrays, 'prompt': {'id': np.asarray(prompt_id, np.int32)}}


@dataclasses.dataclass(frozen=True)
class LabelLayout(CausalLayout):
  """The layout of a decoder-only model's examples with labels at positions of the input.

  The last positions of the input, one for each target, predict one target each; targets are not read. An input is token
  ids, or real vectors [T, F], which become the array `features`.

  Attributes:
    classes: the number of labels; 0 disables the check.
    inputs: the number of token ids, or the width F of vectors; 0 disables the check.
  """

  classes: int = 0
  inputs: int = 0

  def row_lengths(self, lengths: Mapping[str, int]) -> dict[str, int]:
    """Returns the row lengths: those of the inputs."""
    return self.question_lengths(lengths)

  def example(self, inputs: Any, targets: Sequence[int], *, prompt_length: int | None = None, prompt_id: int = 0,
              loss_weight: float = 1.0, input_weights: Any = None) -> Segment:
    """Lays out one example; see `Layout.example`.

    Raises:
      ValueError: there are more targets than inputs, a label is not in the output layer, or the input layer cannot read
        an input.
    """
    count = len(targets)
    self._require_ends(inputs, targets)
    _require_no_weights(input_weights, 'positions of the input are labelled')
    if count > len(inputs):
      raise ValueError(f'An example has {count} labels for an input of {len(inputs)} positions. Give at most one label '
                       'per position.')
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
    """Raises ValueError if an example does not fit the model's input or output layer."""
    if self.classes and len(targets) and not 0 <= min(targets) <= max(targets) < self.classes:
      raise ValueError(f'An example has the labels {list(map(int, targets))[:5]}, but the output layer has '
                       f'{self.classes} classes, 0 to {self.classes - 1}. Increase classes in new_layers=.')
    if self.inputs and np.ndim(inputs) == 2 and np.shape(inputs)[1] != self.inputs:
      raise ValueError(f'An input has vectors of width {np.shape(inputs)[1]}, but the input layer reads width '
                       f'{self.inputs}. Set features to that width in new_layers=.')
    if self.inputs and np.ndim(inputs) == 1 and len(inputs) and max(inputs) >= self.inputs:
      raise ValueError(f'An input has the token {int(max(inputs))}, but the input layer has {self.inputs} tokens, 0 to '
                       f'{self.inputs - 1}. Increase tokens in new_layers=.')


def _require_no_weights(input_weights: Any, why: str) -> None:
  """Raises ValueError if tokens of an input are to be targets, which a layout does not support."""
  if input_weights is not None and np.any(input_weights):
    raise ValueError(f'train_on=all cannot be used: a conversation has several turns of the assistant, but {why}. Give '
                     'train_on=last.')
