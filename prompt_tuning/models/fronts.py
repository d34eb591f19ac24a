"""Prefixes and prompts as keys and values in front of a stack's own, shared by all rows or chosen by each."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning.models.attention import hide
from prompt_tuning.models.stack import Front
from prompt_tuning.types import Array


def front_of(keys_values: tuple[Array, Array], prompt_ids: Array, lengths: Array | None, *,
             placed: bool) -> tuple[Front, Array | int]:
  """Returns the front that rows see, and how many positions it takes before their own ([B, 1], or a number for all).

  Args:
    keys_values: [L, N, kv_heads, P, K] twice; one (N = 1) is shared by all rows without a copy.
    prompt_ids: [B, G], which of N each row uses; where N is above 1, all segments of a row use the first's.
    lengths: [N], how many of P each has; None is P.
    placed: its keys stand at the positions 0 to P-1, which position biases and windows go by; else they are seen
      from everywhere.
  """
  keys, values = keys_values
  count, length = keys.shape[1], keys.shape[3]
  positions = jnp.arange(length) if placed else None
  if count == 1:
    return Front(keys, values, jnp.zeros((1, 1, 1, 1)), positions), length
  chosen, own, bias = choose(prompt_ids, lengths, count, length)
  return Front(keys[:, chosen], values[:, chosen], bias, positions), own[:, None]


def choose(prompt_ids: Array, lengths: Array | None, count: int, length: int) -> tuple[Array, Array, Array]:
  """Returns which of N prompts each row uses [B], how long those are [B], and who sees their P places [B, 1, 1, P]."""
  chosen = prompt_ids[:, 0]
  own = jnp.full([count], length)[chosen] if lengths is None else lengths[chosen]
  return chosen, own, hide(jnp.arange(length) < own[:, None])[:, None, None, :]


def spread(front: Front | None, count: int) -> Front | None:
  """Returns the front for rows that stand `count` times behind one another each; its keys and values are shared."""
  if front is None:
    return None
  repeat = lambda of_rows: jnp.repeat(of_rows, count if of_rows.shape[0] > 1 else 1, axis=0)
  placed = front.positions is not None and front.positions.ndim > 1
  return dataclasses.replace(front, bias=repeat(front.bias),
                             positions=repeat(front.positions) if placed else front.positions)


@dataclasses.dataclass(frozen=True)
class Cache:
  """The shape of the keys and values of N answers to each of B rows, which grow token by token.

  Attributes:
    layers: L.
    rows: B.
    count: N.
    heads: of keys and values.
    places: S.
    head_dim: K.
  """

  layers: int
  rows: int
  count: int
  heads: int
  places: int
  head_dim: int

  def empty(self, dtype: Any) -> tuple[Array, Array]:
    """Returns keys and values [L, B, N, heads, S, K] before the first token."""
    return tuple(jnp.zeros(dataclasses.astuple(self), dtype) for _ in range(2))

  def joined(self, cache: tuple[Array, Array]) -> tuple[Array, Array]:
    """Returns keys and values with all answers as rows, [L, B·N, heads, S, K]."""
    return tuple(part.reshape(self.layers, -1, self.heads, self.places, self.head_dim) for part in cache)

  def written(self, cache: tuple[Array, Array], own: tuple[Array, Array], index: Array) -> tuple[Array, Array]:
    """Returns the cache with a token's keys and values [L, B·N, heads, 1, K] at a place."""
    one = (self.layers, self.rows, self.count, self.heads, 1, self.head_dim)
    return tuple(jax.lax.dynamic_update_slice_in_dim(part, new.reshape(one), index, axis=4)
                 for part, new in zip(cache, own, strict=True))
