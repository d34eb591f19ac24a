"""Prefixes, prompts and contexts as keys and values before a stack's own, shared by all rows or chosen per row."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning.devices import sharding
from prompt_tuning.models.attention import hide
from prompt_tuning.models.stack import Front, Own
from prompt_tuning.rows.conditioning import AXES, Context, StackConditioning, State
from prompt_tuning.types import Array


def front_of(keys_values: tuple[Array, Array], prompt_ids: Array, lengths: Array | None, *, placed: bool,
             start: Array | int = 0) -> tuple[Front, Array | int]:
  """Returns the KV prefix of the rows, and how many positions it takes ([B, 1], or one number for all rows).

  Args:
    keys_values: [L, N, kv_heads, P, K] twice; if N is 1, and its length P, all rows share it without a copy.
    prompt_ids: [B, G], which of N each segment of a row uses; if N is above 1, all segments use the first's.
    lengths: [N], the length of each, 0 to P; None means P for all.
    placed: its keys take P positions, which count for position biases and windows; else all positions see them at any
      distance.
    start: its first position, or [B, 1] (or [1, 1]).
  """
  keys, values = keys_values
  count, length = keys.shape[1], keys.shape[3]
  positions = start + jnp.arange(length) if placed else None
  if count == 1 and lengths is None:
    return Front(keys, values, jnp.zeros((1, 1, 1, 1)), positions), length
  chosen, own, bias = choose(prompt_ids, lengths, count, length)
  return Front(keys[:, chosen], values[:, chosen], bias, positions), own[:, None]


def choose(prompt_ids: Array, lengths: Array | None, count: int, length: int) -> tuple[Array, Array, Array]:
  """Returns the prompt of N that each row uses [B], its length [B], and a bias that hides its padding [B, 1, 1, P]."""
  chosen = prompt_ids[:, 0]
  own = jnp.full([count], length)[chosen] if lengths is None else lengths[chosen]
  return chosen, own, hide(jnp.arange(length) < own[:, None])[:, None, None, :]


def parted(own: Own) -> tuple[tuple[Array, Array], State | None]:
  """Returns keys and values, and the state of the delta layers, if there are any."""
  return own[:2], own[2] if len(own) > 2 else None


def state_of(state: State, prompt_ids: Array) -> State:
  """Returns the state of the rows after what precedes them, given that after each of N prompts; N = 1 is shared."""
  return state if state.memory.shape[1] == 1 else state.rows(prompt_ids[:, 0])


def front_of_context(context: Context, rows: int) -> tuple[Front, Array]:
  """Returns the keys and values of a cached context, and its length [B, 1], or [1, 1] for all rows.

  Raises:
    ValueError: it has neither one row nor as many rows as the batch.
  """
  found = context.keys.shape[1]
  if found not in (1, rows):
    raise ValueError(f'The context has {found} rows, expected {rows} or 1. Read one text for each row, or one for all.')
  positions = jnp.maximum(jnp.cumsum(context.seen, axis=1) - 1, 0)
  front = Front(jnp.asarray(context.keys), jnp.asarray(context.values), hide(context.seen)[:, None, None, :], positions)
  return front, jnp.sum(context.seen, axis=1, keepdims=True)


def of_rows(given: StackConditioning, prompt_ids: Array) -> tuple[StackConditioning, Array]:
  """Returns a separate prompt for each row (N = B), if their contexts differ, and the prompts' ids [B, 1]."""
  chosen = prompt_ids[:, 0]
  take = lambda arrays, axis: jax.tree.map(lambda array: jnp.take(array, chosen, axis=axis), arrays)
  fields = {name: take(getattr(given, name), of_count) for name, (of_count, _) in AXES.items()}
  fields['scales'] = take(given.scales, 1)
  given = dataclasses.replace(given, **fields, lengths=take(given.lengths, 0))
  return given, jnp.arange(len(chosen))[:, None]


def spread(front: Front | None, count: int) -> Front | None:
  """Returns the KV prefix for rows that are each repeated `count` times; its keys and values are shared."""
  if front is None:
    return None
  repeat = lambda of_rows: jnp.repeat(of_rows, count if of_rows.shape[0] > 1 else 1, axis=0)
  placed = front.positions is not None and front.positions.ndim > 1
  return dataclasses.replace(front, bias=repeat(front.bias),
                             positions=repeat(front.positions) if placed else front.positions)


def concatenated(first: Front | None, second: Front | None) -> Front | None:
  """Returns two KV prefixes without positions as one; each has its own rows [B], or there is only one of them."""
  if first is None or second is None:
    return first or second
  join = lambda name: jnp.concatenate([getattr(first, name), getattr(second, name)], axis=3)
  return Front(join('keys'), join('values'), join('bias'))


def empty_cache(config: Any, *shape: int) -> tuple[Array, Array]:
  """Returns keys and values [L, B, N, heads, S, K] of N generations for each of B rows, before the first token.

  Args:
    config: the model's, whose type and mesh the cache has.
    *shape: L, B, N, KV heads, S and K.
  """
  zeros = jnp.zeros(shape, config.dtype)
  return (sharding.constrain(zeros, config.mesh, None, 'batch', None, 'heads'),) * 2


def empty_state(config: Any, rows: int) -> State:
  """Returns the state of B rows before the first position."""
  shape, layers = config.delta, sum(config.delta_layers)
  memory = jnp.zeros((layers, rows, shape.value_heads, shape.key_dim, shape.value_dim))
  return State(sharding.constrain(memory, config.mesh, None, None, 'heads'), tuple(
    jnp.zeros((layers, rows, shape.taps - 1, width), config.dtype) for width in shape.widths))


def with_products(state: State | None, keys_values: tuple[Array, Array], config: Any) -> State:
  """Returns the state of N entries, or of the rows of `state`, with the products of keys and values added to it.

  Args:
    state: [L, B, ...], with N = B, or of one row for all; None is that before the first position.
    keys_values: of `StackConditioning.state_prefix`.
    config: the model's.
  """
  keys, values = (array.astype(jnp.float32) for array in keys_values)
  layers, count, heads, length, _ = keys.shape
  state = empty_state(config, 1) if state is None else state
  grouped = values.reshape(layers, count, heads, -1, length, values.shape[-1])  # a key's head has several of values
  added = jnp.einsum('lngpk,lngrpv->lngrkv', keys, grouped, precision=jax.lax.Precision.HIGHEST)
  memory = state.memory + added.reshape(layers, count, -1, *added.shape[-2:])
  wide = lambda tail: jnp.broadcast_to(tail, (layers, memory.shape[1], *tail.shape[2:]))
  return State(memory, tuple(map(wide, state.tails)))


def joined(cache: Own) -> Own:
  """Returns keys and values with all generations as rows, [L, B·N, heads, S, K]; and the states, if there are any."""
  return jax.tree.map(lambda part: part.reshape(part.shape[0], -1, *part.shape[3:]), cache)


def repeated(state: State, rows: int, count: int) -> State:
  """Returns the state of B rows, or of one for all, for N generations of each, [L, B, N, ...]."""
  return jax.tree.map(lambda part: jnp.broadcast_to(
    part[:, :, None], (part.shape[0], rows, count, *part.shape[2:])), state)


def written(cache: Own, own: Own, index: Array) -> Own:
  """Returns the cache with a token's keys and values [L, B·N, heads, 1, K] written at a place, and the states after it.

  The first token (index 0) is read by nothing: it changes no state.
  """
  one = lambda part: (*part.shape[:4], 1, part.shape[5])
  keys, values = (jax.lax.dynamic_update_slice_in_dim(part, new.reshape(one(part)), index, axis=4)
                  for part, new in zip(cache[:2], own[:2], strict=True))
  states = jax.tree.map(lambda old, new: jnp.where(index == 0, old, new.reshape(old.shape)), cache[2:], own[2:])
  return keys, values, *states
