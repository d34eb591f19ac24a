"""Encoder-only models: BERT and its relatives. They write no text; a head predicts labels or a number.

Names call their one stack `decoder`, like that of every model with one stack.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.models import dense
from prompt_tuning.models.abilities import require_writing
from prompt_tuning.models.activations import ACTIVATIONS
from prompt_tuning.models.decoder_only import DecoderOnly
from prompt_tuning.models.encoder_config import EncoderConfig
from prompt_tuning.models.fronts import Front
from prompt_tuning.models.masked_words import MaskHead, at_masks
from prompt_tuning.models.norms import norm
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.rows.text_layout import TextLayout
from prompt_tuning.types import Array, Batch

POOLERS = {**ACTIVATIONS, 'tanh': jnp.tanh}


class EncoderOnly(DecoderOnly):
  """A bidirectional model, called with a batch of `layouts.assemble` and a Conditioning.

  Its logits are those of its head, of which a row's are at its first position.

  Attributes:
    config: the model's shape.
  """

  config: EncoderConfig

  def setup(self) -> None:
    config = self.config
    super().setup()
    if config.token_types:
      self.type_embedder = nn.Embed(config.token_types, config.width, dtype=config.dtype,
                                    embedding_init=nn.initializers.normal(0.02))
    if config.pooler:
      self.pooler = dense.Dense(config.width, use_bias=config.pooler_bias, dtype=config.dtype)
      if config.pooler_norm:
        self.pooler_norm = norm(config)
    if config.mask_activation:
      self.mask_head = MaskHead(config)

  def layout(self, asked: Layout) -> TextLayout:
    """Returns the layout of this model's examples.

    Raises:
      ValueError: inputs are to be cached, which only a causal model can.
    """
    if asked.cached:
      raise ValueError('cached=True cannot be used with an encoder-only model: its input sees the prompt. Leave it '
                       'out.')
    return TextLayout(asked.prompt_length, asked.placement, isolated=asked.isolated, within=asked.within,
                      prefixed=asked.prefixed, vocab_size=self.config.vocab_size, classes=self.config.classes,
                      labels=self.config.labels, problem=self.config.problem, masks=self.config.masks,
                      mask_id=self.config.mask_id)

  def placed(self, vectors: Array, positions: Array) -> Array:
    """Returns vectors, tokens or prompts, as the input of the stack at their positions."""
    config, x = self.config, vectors
    if config.position_count:
      x = x + self.position_embedder(positions + config.position_offset)
    if config.token_types:
      x = x + self.type_embedder(jnp.zeros((1,), jnp.int32))
    return self.embedding_norm(x) if config.embedding_norm else x

  def project(self, x: Array) -> Array:
    """Returns the head's logits [B, T, classes] in float32 of pooled hidden states [B, T, D], or those of masks.

    Raises:
      ValueError: the model has no head.
    """
    config = self.config
    if config.words:
      return self.mask_head.scores(x, self.token_embedder.embedding)
    if config.mask_activation and self.is_initializing():
      self.mask_head(x)
    if config.pooler:
      x = POOLERS[config.pooler](self.pooler(x))
      if config.pooler_norm:
        x = self.pooler_norm(x)
    if config.classes:
      return self.decoder.logits(x)
    if self.is_initializing():
      return x
    raise ValueError('This encoder-only model has no classification head, so it makes no logits. Give it one with '
                     'prompt_tuning.with_head(model, labels=[…]), or words of a head of masked words with '
                     'prompt_tuning.with_verbaliser(model, {…}).')

  def _read(self, batch: Batch, conditioning: Conditioning, dropout: Array | None, *,
            collect: bool) -> tuple[Array, tuple[Array, Array] | None, list[Front], Array]:
    x, own, fronts, positions = super()._read(batch, conditioning, dropout, collect=collect)
    if self.config.words:
      x = at_masks(x, batch['decoder'], self.config)
    elif self.config.classes and self.config.pooling != 'cls':
      x = _means(x, batch['decoder'], prompts=self.config.pooling == 'all')
    return x, own, fronts, positions

  def begin(self, params: Mapping[str, Any], batch: Batch, conditioning: Conditioning, *, count: int,
            max_length: int) -> Any:
    """Raises ValueError: the model cannot write texts."""
    require_writing(self, 'generate, score or rank texts')


def _means(x: Array, layout: Batch, *, prompts: bool) -> Array:
  """Returns [B, T, D]: at every position, the mean over the tokens of its segment, and over its prompt if asked."""
  segments = layout['segments']
  counted = segments > 0
  if 'prompt_slots' in layout and not prompts:
    counted &= layout['prompt_slots'] < 0
  same = ((segments[:, :, None] == segments[:, None, :]) & counted[:, None, :]).astype(x.dtype)
  return same @ x / jnp.maximum(same.sum(-1, keepdims=True), 1)
