"""Relative position biases of T5 (Raffel et al. 2020, section 2.1)."""

import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.types import Array


def relative_buckets(distance: Array, *, buckets: int, max_distance: int, bidirectional: bool) -> Array:
  """Returns the bucket of each distance (key's position minus query's), as T5 numbers them.

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
  # The small number keeps the logarithm finite; `where` drops its value there.
  ratio = jnp.log(distance.astype(jnp.float32) / exact + 1e-9) / jnp.log(max_distance / exact)
  logarithmic = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
  return offset + jnp.where(distance < exact, distance, logarithmic)


class RelativeBias(nn.Module):
  """A learned bias for each head and bucket of distances, shared by the layers of a stack.

  Attributes:
    heads: H.
    buckets: how many buckets.
    max_distance: where the last bucket starts.
    bidirectional: whether keys to the right have buckets of their own.
  """

  heads: int
  buckets: int
  max_distance: int
  bidirectional: bool

  @nn.compact
  def __call__(self, query_index: Array, key_index: Array) -> Array:
    """Returns [H, T, S] for the indices `[T]` of the queries and `[S]` of the keys.

    Inside a segment differences of indices equal those of positions, so one array serves packed and padded
    rows alike.
    """
    table = self.param('rel_embedding', nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'),
                       (self.heads, self.buckets))
    distance = key_index[None, :] - query_index[:, None]
    return table[:, relative_buckets(distance, buckets=self.buckets, max_distance=self.max_distance,
                                     bidirectional=self.bidirectional)]
