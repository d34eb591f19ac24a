"""The head of masked words, and a verbaliser, which reads labels from it (PET, Schick & Schütze 2021).

  score(label) = Σ_j E[w_j] · norm(activation(W h_j + b)) + c[w_j],
  h_j the output at the j-th mask of a row, w_j the j-th token of the label's word, E the embedding.

A word of several tokens needs as many masks. Their normalisers are the same for all labels, so a softmax of the scores
is one of the products of probabilities.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning.models import dense
from prompt_tuning.models.activations import ACTIVATIONS
from prompt_tuning.models.encoder_config import EncoderConfig
from prompt_tuning.models.norms import norm
from prompt_tuning.types import Array, Batch

_UNKNOWN = ('[UNK]', '<unk>')


class MaskHead(nn.Module):
  """The head of masked words; its output layer is the embedding, with a bias for each token.

  Attributes:
    config: the model's shape.
  """

  config: EncoderConfig

  def setup(self) -> None:
    config = self.config
    self.dense = dense.Dense(config.width, use_bias=config.pooler_bias, dtype=config.dtype)
    self.norm = norm(config)
    self.bias = self.param('bias', nn.initializers.zeros, (config.vocab_size,))

  def __call__(self, x: Array) -> Array:
    """Returns what the output layer reads [..., D] of hidden states [..., D]."""
    return self.norm(ACTIVATIONS[self.config.mask_activation](self.dense(x)))

  def scores(self, x: Array, embedding: Array) -> Array:
    """Returns the scores of the labels [B, T, classes] in float32.

    Args:
      x: [B, T, M·D], the hidden states of the M masks, see `at_masks`.
      embedding: [V, D].
    """
    words = np.asarray(self.config.word_ids)  # [classes, M]
    x = self(x.reshape(*x.shape[:-1], words.shape[1], -1))
    products = jnp.einsum('...md,cmd->...c', x, embedding[words].astype(x.dtype), preferred_element_type=jnp.float32)
    return products + self.bias[words].astype(jnp.float32).sum(-1)


def at_masks(x: Array, layout: Batch, config: EncoderConfig) -> Array:
  """Returns [B, T, M·D]: at every position, the hidden states [B, T, D] at the M masks of its segment, in order."""
  segments, masks = layout['segments'], layout['tokens'] == config.mask_id
  if 'prompt_slots' in layout:
    masks &= layout['prompt_slots'] < 0
  same = (segments[:, :, None] == segments[:, None, :]) & (masks & (segments > 0))[:, None, :]
  index = jnp.arange(segments.shape[1])
  number = jnp.sum(same & (index[None, :] < index[:, None]), axis=-1)  # masks before a position, in its segment
  chosen = [(same & (number[:, None, :] == each)).astype(x.dtype) @ x for each in range(config.masks)]
  return jnp.concatenate(chosen, axis=-1)


def words_of(vocabulary: Any, labels: Sequence[str], words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
  """Returns the tokens of the word of each label, as they stand within a text.

  Raises:
    ValueError: there is no vocabulary, a word is unknown, two labels have the same, or words differ in their number of
      tokens.
  """
  if vocabulary is None:
    raise ValueError('The model has no vocabulary, which a verbaliser needs for its words. Give load_model '
                     'vocabulary=.')
  found: dict[str, tuple[int, ...]] = {}
  pieces = lambda ids: ' '.join(vocabulary.piece(i) for i in ids)
  for label, word in zip(labels, words, strict=True):
    ids = tuple(vocabulary.encode(f' {word.strip()}'))
    if not ids or any(vocabulary.piece(i) in _UNKNOWN for i in ids):
      raise ValueError(f'The word {word!r} of the label {label!r} is unknown to the vocabulary of the model. Choose '
                       'another.')
    twin = next((other for other, theirs in found.items() if theirs == ids), None)
    if twin is not None:
      raise ValueError(f'The labels {twin!r} and {label!r} have the same word, {word!r}. Choose another.')
    found[label] = ids
  first = labels[0]
  for label, ids in found.items():
    if len(ids) != len(found[first]):
      raise ValueError(f'The words of a verbaliser need as many tokens as a text has masks, but that of {first!r} has '
                       f'{len(found[first])} ({pieces(found[first])}), that of {label!r} {len(ids)} ({pieces(ids)}). '
                       'Choose words of the same number of tokens.')
  return tuple(found.values())


def mask_of(vocabulary: Any, given: int | None, path: str) -> int:
  """Returns the id of the mask, as given or as the vocabulary says; raises ValueError if nothing says it."""
  found = getattr(vocabulary, 'mask_id', None) if given is None else given
  if found is None:
    raise ValueError(f'The vocabulary of {path} names no mask token, so a verbaliser does not know what to fill in. '
                     'Give mask_id=, or mask_token in its tokenizer_config.json.')
  return int(found)
