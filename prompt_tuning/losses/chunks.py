"""Functions of logits, computed for a few target positions at a time, so that all logits never exist at once.

Logits are B·S·V numbers, more than anything else in a step, and most positions have no target. So the positions with
a target are moved to the front of each row, rows are cut into chunks of columns, and chunks without targets skipped.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning.types import Array

MOST = 1 << 23  # logits that are computed at once: 32 MiB


def at_targets(function: Callable[..., Any], project: Callable[[Array], Array], hidden: Array, weights: Array,
               *others: Array, most: int = MOST) -> Any:
  """Returns the function's results for each position, 0 where the weight is 0.

  Args:
    function: (logits [B, C, V], *others [B, C]) -> a pytree of arrays [B, C, ...].
    project: hidden states [B, C, D] -> logits.
    hidden: [B, S, D].
    weights: [B, S], 0 at positions without a target.
    *others: [B, S] further arrays that the function reads.
    most: logits that are computed at once.

  Returns:
    The pytree, with arrays [B, S, ...].
  """
  real = weights != 0
  columns = _columns(project, hidden, most)
  of_chunk = lambda x, *rest: function(project(x), *rest)
  if columns >= hidden.shape[1]:
    found = of_chunk(hidden, *others)
  else:
    found, order = _scanned(of_chunk, columns, real, hidden, *others)
    found = jax.tree.map(lambda array: _joined(array, order), found)
  return jax.tree.map(lambda x: jnp.where(real.reshape(*real.shape, *[1] * (x.ndim - 2)), x, 0), found)


def sum_at_targets(function: Callable[..., tuple[Array, Any]], project: Callable[[Array], Array], hidden: Array,
                   weights: Array, *others: Array, most: int = MOST) -> tuple[Array, Any]:
  """Returns the sum of the function's results over all positions; the other arguments are those of `at_targets`.

  The gradient is that of the first result. If the output layer is frozen, the gradient in the hidden states is computed
  with the logits of a chunk, at once; else its logits are computed again, instead of keeping those of all.

  Args:
    function: (logits [B, C, V], *others [B, C]) -> (sum [] or [B], further sums) over the positions that it reads, to
      which one without weight adds nothing. A sum [B] has one of each row.
    project: as in `at_targets`; `project.frozen` says that no gradient in the output layer's weights is asked for.
  """
  real, columns = weights != 0, _columns(project, hidden, most)
  of_chunk = lambda x, *rest: function(project(x), *rest)
  if columns >= hidden.shape[1]:
    return of_chunk(hidden, *others)
  total = lambda parts: jax.tree.map(lambda part: part.sum(0), parts)
  summed = lambda x: total(_scanned(of_chunk, columns, real, x, *others)[0])
  if not getattr(project, 'frozen', False):
    return summed(hidden)

  def with_gradient(x: Array, *rest: Array) -> tuple[Any, Array]:
    value, pull, more = jax.vjp(lambda x: of_chunk(x, *rest), x, has_aux=True)
    return (value, more), *pull(jnp.ones_like(value))

  def forward(x: Array) -> tuple[Any, Array]:
    (sums, gradients), order = _scanned(with_gradient, columns, real, x, *others)
    return total(sums), _joined(gradients, order)

  def backward(gradient: Array, cotangents: tuple[Array, Any]) -> tuple[Array]:
    of_value, _ = cotangents
    return (gradient * of_value.reshape(-1, 1, 1).astype(gradient.dtype),)

  summed = jax.custom_vjp(summed)
  summed.defvjp(forward, backward)
  return summed(hidden)


def _columns(project: Callable[[Array], Array], hidden: Array, most: int) -> int:
  """Returns how many columns of the rows make a chunk."""
  rows, _, vocabulary = jax.eval_shape(project, hidden).shape
  return max(1, most // (rows * vocabulary))


def _scanned(of_chunk: Callable[..., Any], columns: int, real: Array, *arrays: Array) -> tuple[Any, Array]:
  """Returns the results for each chunk of the arrays, stacked, and the order [B, S] in which positions are cut.

  Results of a chunk without a target (`real`) are 0.
  """
  order = jnp.argsort(~real, axis=1, stable=True)
  count = -(-order.shape[1] // columns)

  def chunks(array: Array) -> Array:  # [B, S, ...] -> [chunks, B, C, ...]
    array = _taken(array, order)
    array = jnp.pad(array, [(0, 0), (0, count * columns - array.shape[1]), *[(0, 0)] * (array.ndim - 2)])
    return jnp.moveaxis(array.reshape(len(array), count, columns, *array.shape[2:]), 1, 0)

  def one(_: None, chunk: tuple[Array, ...]) -> tuple[None, Any]:
    has_targets, *rest = chunk
    nothing = lambda *arrays: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_chunk, *arrays))
    return None, jax.lax.cond(jnp.any(has_targets), of_chunk, nothing, *rest)

  # For a gradient, around the choice: else what both branches close over, the output layer, is kept for every chunk.
  one = jax.checkpoint(one, prevent_cse=False)
  return jax.lax.scan(one, None, tuple(map(chunks, (real, *arrays))))[1], order


def _joined(array: Array, order: Array) -> Array:
  """Returns [B, S, ...] of the results [chunks, B, C, ...] of positions in an order [B, S]."""
  rows = jnp.moveaxis(array, 0, 1).reshape(len(order), -1, *array.shape[3:])
  return _taken(rows, jnp.argsort(order, axis=1))


def _taken(array: Array, order: Array) -> Array:
  """Returns [B, S, ...] with each row's positions in the order [B, S]."""
  return jax.vmap(lambda row, places: row.at[places].get(mode='promise_in_bounds'))(array, order)
