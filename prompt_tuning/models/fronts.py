"""Prefixes and prompts as keys and values in front of a stack's own, shared by all rows or chosen by each."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning.devices import sharding
from prompt_tuning.models.attention import hide
from prompt_tuning.models.stack import Front
from prompt_tuning.rows.conditioning import Context, StackConditioning
from prompt_tuning.types import Array


def front_of(keys_values: tuple[Array, Array], prompt_ids: Array, lengths: Array | None, *, placed: bool,
             start: Array | int = 0) -> tuple[Front, Array | int]:
  """Returns the front that rows see, and how many positions it takes before their own ([B, 1], or a number for all).

  Args:
    keys_values: [L, N, kv_heads, P, K] twice; one (N = 1) is shared by all rows without a copy.
    prompt_ids: [B, G], which of N each row uses; where N is above 1, all segments of a row use the first's.
    lengths: [N], how many of P each has; None is P.
    placed: its keys stand at P positions, which position biases and windows go by; else they are seen from
      everywhere.
    start: the first of these positions, or [B, 1] (or [1, 1]).
  """
  keys, values = keys_values
  count, length = keys.shape[1], keys.shape[3]
  positions = start + jnp.arange(length) if placed else None
  if count == 1:
    return Front(keys, values, jnp.zeros((1, 1, 1, 1)), positions), length
  chosen, own, bias = choose(prompt_ids, lengths, count, length)
  return Front(keys[:, chosen], values[:, chosen], bias, positions), own[:, None]


def choose(prompt_ids: Array, lengths: Array | None, count: int, length: int) -> tuple[Array, Array, Array]:
  """Returns which of N prompts each row uses [B], how long those are [B], and who sees their P places [B, 1, 1, P]."""
  chosen = prompt_ids[:, 0]
  own = jnp.full([count], length)[chosen] if lengths is None else lengths[chosen]
  return chosen, own, hide(jnp.arange(length) < own[:, None])[:, None, None, :]


def front_of_context(context: Context, rows: int) -> tuple[Front, Array]:
  """Returns the front of a text that was read before, and how long it is [B, 1], or [1, 1] for all rows.

  Raises:
    ValueError: it has neither one row nor as many as the batch.
  """
  found = context.keys.shape[1]
  if found not in (1, rows):
    raise ValueError(f'The context has {found} rows, but the batch {rows}. Read one text for each row, or one for all.')
  positions = jnp.maximum(jnp.cumsum(context.seen, axis=1) - 1, 0)
  front = Front(jnp.asarray(context.keys), jnp.asarray(context.values), hide(context.seen)[:, None, None, :], positions)
  return front, jnp.sum(context.seen, axis=1, keepdims=True)


def of_rows(given: StackConditioning, prompt_ids: Array) -> tuple[StackConditioning, Array]:
  """Returns prompts of each row's own (N = B), where rows differ in what stands before these, and which those are."""
  chosen = prompt_ids[:, 0]
  take = lambda array, axis: None if array is None else jnp.take(array, chosen, axis=axis)
  given = dataclasses.replace(
    given, prompt=take(given.prompt, 0), added=take(given.added, 1), layer_prompts=take(given.layer_prompts, 1),
    prefix=given.prefix and tuple(take(part, 1) for part in given.prefix), lengths=take(given.lengths, 0))
  return given, jnp.arange(len(chosen))[:, None]


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

  def empty(self, config: Any) -> tuple[Array, Array]:
    """Returns keys and values [L, B, N, heads, S, K] before the first token, spread as the model is."""
    zeros = jnp.zeros(dataclasses.astuple(self), config.dtype)
    return (sharding.constrain(zeros, config.mesh, None, 'batch', None, 'heads'),) * 2

  def joined(self, cache: tuple[Array, Array]) -> tuple[Array, Array]:
    """Returns keys and values with all answers as rows, [L, B·N, heads, S, K]."""
    return tuple(part.reshape(self.layers, -1, self.heads, self.places, self.head_dim) for part in cache)

  def written(self, cache: tuple[Array, Array], own: tuple[Array, Array], index: Array) -> tuple[Array, Array]:
    """Returns the cache with a token's keys and values [L, B·N, heads, 1, K] at a place."""
    one = (self.layers, self.rows, self.count, self.heads, 1, self.head_dim)
    return tuple(jax.lax.dynamic_update_slice_in_dim(part, new.reshape(one), index, axis=4)
                 for part, new in zip(cache, own, strict=True))
