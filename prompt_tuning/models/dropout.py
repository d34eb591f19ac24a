"""Dropout (Srivastava et al. 2014), which depends on each row's key alone."""

from collections.abc import Sequence

import jax

from prompt_tuning.types import Array


def drop(x: Array, keys: Array | None, rate: float, *, site: int, over: Sequence[int]) -> Array:
  """Zeroes a share of `x` and scales up the rest; a row's mask depends only on the row's own key.

  Args:
    x: [B, ...].
    keys: [B] random keys, or None for no dropout.
    rate: the share to drop.
    site: distinguishes the places in a layer that use the same keys.
    over: the axes, except the first, along which the mask varies; it is shared along the others, as in T5.
  """
  if keys is None or rate == 0.0:
    return x
  shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)][1:]
  keys = jax.vmap(lambda key: jax.random.fold_in(key, site))(keys)
  kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
  return x * (kept / (1 - rate)).astype(x.dtype)
