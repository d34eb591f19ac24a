"""Shared by all decoders: checks of the caller's `cache` and `step`, reordering of a cache, detection of end tokens."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning.types import Array

Cache = Any  # a pytree of arrays [L, B, N, ...]
Step = Callable[[Array, Array, Cache], tuple[Array, Cache]]


def check_cache(cache: Cache, batch_size: int, num_decodes: int) -> None:
  """Raises ValueError if a leaf of the cache does not have B at axis 1 and N at axis 2."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(cache):
    if leaf.shape[1:3] != (batch_size, num_decodes):
      raise ValueError(
        f'The cache has {jax.tree_util.keystr(path)} of shape {leaf.shape}, but {batch_size} rows of {num_decodes} '
        f'decodes need [L, {batch_size}, {num_decodes}, ...]. Make the cache for this batch_size and num_decodes, and '
        'let `step` close over constant arrays.')


def run_step(step: Step, ids: Array, index: Array, cache: Cache) -> tuple[Array, Cache]:
  """Returns float32 logits [B, N, V] and the new cache; raises ValueError if `step` returns another shape."""
  logits, cache = step(ids, index, cache)
  if logits.ndim != 3 or logits.shape[:2] != ids.shape:
    raise ValueError(
      f'`step` returned logits of shape {logits.shape} for ids of shape {ids.shape}. Return [B, N, V]: '
      'the logits of the next token of every decode.')
  return logits.astype('float32'), cache


def row_keys(key: Array, rows: Array) -> Array:
  """Returns a random key for each of the row numbers [B]."""
  return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def is_end(ids: Array, end_ids: Array) -> Array:
  """Returns True for each of the tokens [B, N] that is one of its row's end tokens [B, E]."""
  return jnp.any(ids[..., None] == end_ids[:, None], axis=-1)


def reorder(cache: Cache, parents: Array) -> Cache:
  """Returns the cache with decode n of row b taken from decode `parents[b, n]`.

  Args:
    cache: leaves [L, B, N, ...].
    parents: [B, N] the decode of its row that each new decode continues.
  """
  if parents.shape[1] == 1:  # only one decode: avoid the copy
    return cache
  return jax.tree.map(lambda leaf: jax.vmap(_choose, in_axes=(1, 0), out_axes=1)(leaf, parents), cache)


def _choose(leaf: Array, parents: Array) -> Array:
  """Returns the decodes `parents` [N] of one row's `leaf` [L, N, ...]."""
  return leaf.at[:, parents].get(mode='promise_in_bounds')
