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
  """Rotary positions of one layer; `rotary_scaling` has further ways to scale them.

  Attributes:
    base: θ: the longest wavelength is about 2π·base.
    factor: positions are divided by it (linear scaling); with `original` only those of long wavelengths (Llama 3).
    original: the length that the model was first trained with, for Llama 3's scaling; 0 means linear scaling.
    low: wavelengths above `original / low` are fully scaled.
    high: wavelengths below `original / high` are not scaled.
    share: share of a head's dimensions that is rotated, the first ones (GPT-NeoX: `rotary_pct`).
    amplitude: factor on cosine and sine (yarn and longrope: `attention_factor`).
  """

  base: float = 10000.0
  factor: float = 1.0
  original: int = 0
  low: float = 1.0
  high: float = 4.0
  share: float = 1.0
  amplitude: float = 1.0

  def dims(self, head_dim: int) -> int:
    """Returns how many of a head's dimensions are rotated."""
    return int(head_dim * self.share)

  def frequencies(self, head_dim: int, length: int = 0) -> np.ndarray:
    """Returns [dims / 2], the angle that one position adds to each pair of a head's rotated dimensions.

    Args:
      head_dim: K.
      length: positions that rows may have, if that changes the frequencies; 0 is the length of `limit`.
    """
    del length
    plain = self.plain(head_dim)
    if not self.original:
      return (plain / self.factor).astype(np.float32)
    turns = self.original * plain / (2 * math.pi)  # in the original length
    kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
    return (kept * plain + (1 - kept) * plain / self.factor).astype(np.float32)

  def plain(self, head_dim: int) -> np.ndarray:
    """Returns the frequencies [dims / 2] before scaling."""
    dims = self.dims(head_dim)
    return self.base ** (-np.arange(0, dims, 2, dtype=np.float32) / dims)

  def limit(self, length: int) -> int:
    """Returns how many positions rows may have with the frequencies for `length`; 0 means any number."""
    del length
    return 0


def rotate(x: Array, turn: tuple[Array, Array], *, neighbours: bool = False) -> Array:
  """Rotates pairs of the first R dimensions of `x` [B, H, T, K].

  Args:
    x: queries or keys.
    turn: cosines and sines [B or 1, T, R/2].
    neighbours: the pairs are (2i, 2i + 1) (GPT-J), not (i, i + R/2).
  """
  # As products of whole heads, which XLA's CPU backend computes ten times as fast as halves that are joined.
  size = 2 * turn[0].shape[-1]
  turned, kept = x[..., :size].astype(jnp.float32), x[..., size:]
  if neighbours:
    swapped = turned.reshape(*turned.shape[:-1], -1, 2)[..., ::-1].reshape(turned.shape)
  else:
    swapped = jnp.roll(turned, size // 2, axis=-1)
  of_pairs = lambda *parts: jnp.stack(parts, -1 if neighbours else -2).reshape(*parts[0].shape[:-1], size)[:, None]
  cos, sin = of_pairs(turn[0], turn[0]), of_pairs(-turn[1], turn[1])
  out = (turned * cos + swapped * sin).astype(x.dtype)
  return jnp.concatenate([out, kept], axis=-1) if kept.shape[-1] else out


def linear_slopes(heads: int) -> np.ndarray:
  """Returns [H], the slope by which each head's logits fall with the distance (ALiBi, Press et al. 2022).

  They are 2^(-8 i / n) for the largest power of two n up to H, then every other one of 2n.
  """
  most = 2 ** int(math.log2(heads))
  of_power = lambda count: 2.0 ** (-8 / count * np.arange(1, count + 1))
  return np.concatenate([of_power(most), of_power(2 * most)[::2][:heads - most]]).astype(np.float32)
