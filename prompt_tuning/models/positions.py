"""Positions: relative biases of T5 (Raffel et al. 2020, section 2.1), rotary angles (Su et al. 2021)."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning.types import Array


def relative_buckets(distance: Array, *, buckets: int, max_distance: int, bidirectional: bool) -> Array:
  """Returns the bucket of each distance (the key's position minus the query's), numbered as in T5.

  Half of the buckets are exact, the other half grow logarithmically up to `max_distance`. A bidirectional
  stack spends half of all buckets on keys to the right.
  """
  if bidirectional:
    buckets //= 2
    offset = jnp.where(distance > 0, buckets, 0)
    distance = jnp.abs(distance)
  else:
    offset = 0
    distance = -jnp.minimum(distance, 0)
  exact = buckets // 2
  # The small constant keeps the logarithm finite; `where` discards its value there.
  ratio = jnp.log(distance.astype(jnp.float32) / exact + 1e-9) / jnp.log(max_distance / exact)
  logarithmic = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
  return offset + jnp.where(distance < exact, distance, logarithmic)


class RelativeBias(nn.Module):
  """A learned bias for each head and bucket of distances, shared by the layers of a stack.

  Attributes:
    heads: H.
    buckets: the number of buckets.
    max_distance: the distance at which the last bucket starts.
    bidirectional: keys to the right have separate buckets.
  """

  heads: int
  buckets: int
  max_distance: int
  bidirectional: bool

  @nn.compact
  def __call__(self, query_index: Array, key_index: Array) -> Array:
    """Returns [H, T, S] for the indices `[T]` of queries and `[S]` of keys, or [B, H, T, S] if one of them has rows.

    Inside a segment differences of indices equal those of positions, so one array serves packed and padded
    rows alike.
    """
    table = self.param('rel_embedding', nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'),
                       (self.heads, self.buckets))
    distance = key_index[..., None, :] - query_index[..., :, None]
    bias = table[:, relative_buckets(distance, buckets=self.buckets, max_distance=self.max_distance,
                                     bidirectional=self.bidirectional)]
    return bias if distance.ndim == 2 else bias.swapaxes(0, 1)


@dataclasses.dataclass(frozen=True)
class Rotary:
  """Rotary positions of one layer.

  Attributes:
    base: θ: the longest wavelength is about 2π·base.
    factor: positions are divided by it (linear scaling); with `original` only those of long wavelengths (Llama 3).
    original: the length that the model was first trained with, for Llama 3's scaling; 0 means linear scaling.
    low: wavelengths above `original / low` are fully scaled.
    high: wavelengths below `original / high` are not scaled.
  """

  base: float = 10000.0
  factor: float = 1.0
  original: int = 0
  low: float = 1.0
  high: float = 4.0

  def frequencies(self, head_dim: int) -> np.ndarray:
    """Returns [K/2], the angle that one position adds to each pair of a head's dimensions."""
    plain = self.base ** (-np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    if not self.original:
      return (plain / self.factor).astype(np.float32)
    turns = self.original * plain / (2 * math.pi)  # in the original length
    kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
    return (kept * plain + (1 - kept) * plain / self.factor).astype(np.float32)


def rotate(x: Array, angles: Array) -> Array:
  """Rotates the pairs (i, i + K/2) of `x` [B, H, T, K] by `angles` [B or 1, T, K/2]."""
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
