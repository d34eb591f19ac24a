"""Prefixes and prompts as keys and values in front of a stack's own, shared by all rows or chosen by each."""

import dataclasses

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
  index = jnp.arange(length)
  positions = index if placed else None
  if count == 1:
    return Front(keys, values, jnp.zeros((1, 1, 1, 1)), positions), length
  chosen = prompt_ids[:, 0]
  own = jnp.full([count], length)[chosen] if lengths is None else lengths[chosen]
  bias = hide(index < own[:, None])[:, None, None, :]
  return Front(keys[:, chosen], values[:, chosen], bias, positions), own[:, None]


def spread(front: Front | None, count: int) -> Front | None:
  """Returns the front for rows that stand `count` times behind one another each; its keys and values are shared."""
  if front is None:
    return None
  repeat = lambda of_rows: jnp.repeat(of_rows, count if of_rows.shape[0] > 1 else 1, axis=0)
  placed = front.positions is not None and front.positions.ndim > 1
  return dataclasses.replace(front, bias=repeat(front.bias),
                             positions=repeat(front.positions) if placed else front.positions)
