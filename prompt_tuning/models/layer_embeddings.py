"""Embeddings that each layer reads (Gemma 3n and 4): a part of the token, and a part of the stack's input."""

import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.models.decoder_config import DecoderConfig
from prompt_tuning.models.dense import Dense
from prompt_tuning.models.norms import RMSNorm
from prompt_tuning.types import Array


class LayerEmbeddings(nn.Module):
  """(norm(x · projection) + √E · table[token]) / √2, an embedding of width E for each layer.

  A prompt's vector is no token: only the first term counts.

  Attributes:
    config: the model's shape.
  """

  config: DecoderConfig

  @nn.compact
  def __call__(self, x: Array, tokens: Array | None = None, prompt: Array | None = None) -> Array:
    """Returns [L, B, T, E].

    Args:
      x: [B, T, D], the input of the stack.
      tokens: [B, T]; None if there are none.
      prompt: [B, T], True for vectors of a prompt; None means that all are tokens.
    """
    config = self.config
    layers, width = config.layers, config.layer_embedding
    # Without a type, rows are converted after they are read: the table is large.
    table = nn.Embed(config.layer_vocab_size, layers * width, name='token_embedder',
                     embedding_init=nn.initializers.normal(0.02))
    by_layer = lambda array: jnp.moveaxis(array.reshape(*array.shape[:-1], layers, width), -2, 0)
    projected = Dense(layers * width, use_bias=False, dtype=config.dtype, name='projection')(x) * config.width**-0.5
    found = RMSNorm(config.dtype, config.norm_epsilon, config.norm_offset, name='norm')(by_layer(projected))
    if tokens is not None or self.is_initializing():
      of_tokens = table(jnp.zeros(x.shape[:2], jnp.int32) if tokens is None else tokens)
      of_tokens = of_tokens.astype(config.dtype) * width**0.5
      found += by_layer(of_tokens if prompt is None else jnp.where(prompt[..., None], 0, of_tokens))
    return found * 2**-0.5
