"""What a layer reads of positions: biases of T5 and ALiBi, rotary turns, windows, factors on queries."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp

from prompt_tuning.models.attention import hide
from prompt_tuning.models.positions import RelativeBias, linear_slopes
from prompt_tuning.models.stack_config import StackConfig
from prompt_tuning.models.surroundings import Surroundings
from prompt_tuning.types import Array


def add_relative_biases(config: StackConfig, around: Surroundings, length: int) -> Surroundings:
  """Returns the surroundings of a stack or layer of T positions with its learned relative position biases added."""
  if not config.relative_buckets:
    return around
  relative = RelativeBias(config.heads, config.relative_buckets, config.relative_max_distance,
                          bidirectional=not config.causal, name='relpos_bias')
  index = jnp.arange(length)
  return dataclasses.replace(
    around, biases=(*around.biases, relative(index, index)),
    front_biases=tuple((*biases, relative(around.positions, positions)) for biases, positions in zip(
      around.front_biases, around.front_positions, strict=True)))


def add_linear_biases(config: StackConfig, around: Surroundings) -> Surroundings:
  """Returns the surroundings of a stack with ALiBi's biases added.

  A head's bias is its slope times the key's position: for one query, this differs from the slope times the distance
  by a constant, which the softmax ignores, and it is only [B, H, 1, S].
  """
  if not config.linear_biases:
    return around
  slopes = jnp.asarray(linear_slopes(config.heads))[:, None, None]
  biases = lambda positions: (slopes * jnp.atleast_2d(positions)[:, None, None, :],)
  return dataclasses.replace(
    around, biases=(*around.biases, *biases(around.positions)),
    front_biases=tuple((*found, *biases(positions)) for found, positions in zip(
      around.front_biases, around.front_positions, strict=True)))


def turns(layer: Mapping[str, Array], positions: Array | None, head_dim: int) -> tuple[Array, Array] | None:
  """Returns the cosines and sines [B or 1, T, R/2] of a layer at positions [T] or [B, T]; None if it has none.

  The frequencies of layers with narrower heads end with zeros, which are left out.
  """
  if 'frequencies' not in layer:
    return None
  angles = jnp.atleast_2d(positions)[..., None] * layer['frequencies'][:head_dim // 2]
  factor = layer.get('amplitude', 1.0)
  return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def query_factor(config: StackConfig, positions: Array | None) -> Array | float:
  """Returns the factor on queries at positions [T] or [B, T]: [B or 1, 1, T, 1], or one number for all.

  It is query_scale · (1 + β · log(1 + ⌊position / n⌋)), if `query_growth` is (β, n).
  """
  if not config.query_growth:
    return config.query_scale
  rate, span = config.query_growth
  grown = 1 + rate * jnp.log1p(jnp.floor(jnp.atleast_2d(positions) / span))
  return config.query_scale * grown[:, None, :, None]


def window_bias(layer: Mapping[str, Array], queries: Array | None, keys: Array | None) -> tuple[Array, ...]:
  """Returns the bias that hides keys outside the layer's window; keys without positions are always visible."""
  if 'window' not in layer or keys is None:
    return ()
  distance = jnp.atleast_2d(queries)[:, :, None] - jnp.atleast_2d(keys)[:, None, :]
  visible = distance < layer['window']
  if 'window_ahead' in layer:
    visible &= -distance < layer['window_ahead']
  return (hide(visible)[:, None],)
