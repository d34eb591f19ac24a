"""Products of rows with the matrix of their group, which experts need: rows of one group are adjacent.

On GPUs and TPUs this is `jax.lax.ragged_dot`. On CPUs, XLA computes that by multiplying all rows with all matrices.
There the rows are multiplied in blocks instead, each with one matrix, so that more groups do not cost more.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning.types import Array

_LARGEST = 64  # rows of a block: more are multiplied no faster, and the last block of a group wastes more


def choose(platform: str, rows: int, groups: int) -> int:
  """Returns the rows of a block, or 0 for `ragged_dot`.

  Args:
    platform: 'cpu', 'gpu' or 'tpu'.
    rows: M.
    groups: G.
  """
  if platform != 'cpu':
    return 0
  return min(_LARGEST, 1 << (rows // groups).bit_length())  # so that an average group is one block


def product(rows: Array, matrices: Array, sizes: Array, *, platform: str, dtype: Any) -> Array:
  """Returns [M, out]: every row times the matrix of its group.

  Args:
    rows: [M, in], those of group 0 first, then those of group 1, and so on.
    matrices: [G, in, out], of the rows' type.
    sizes: [G], the number of rows of each group; their sum is M.
    platform: as in `choose`.
    dtype: of the result.
  """
  sizes, block = sizes.astype(jnp.int32), choose(platform, len(rows), len(matrices))
  if not block:
    return jax.lax.ragged_dot(rows, matrices, sizes, preferred_element_type=dtype)
  return _in_blocks(block, dtype, rows, matrices, sizes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _in_blocks(block: int, dtype: Any, rows: Array, matrices: Array, sizes: Array) -> Array:
  return _multiply(rows, matrices, sizes, block=block, dtype=dtype, axis=1)


def _forward(block: int, dtype: Any, *arrays: Array) -> tuple[Array, tuple[Array, ...]]:
  return _in_blocks(block, dtype, *arrays), arrays


def _backward(block: int, dtype: Any, arrays: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, None]:
  """Returns the gradients of rows and matrices; those of frozen matrices are never computed, as nothing reads them."""
  rows, matrices, sizes = arrays
  of_rows = _multiply(gradient, matrices, sizes, block=block, dtype=rows.dtype, axis=2)
  ragged = lambda matrices: jax.lax.ragged_dot(rows, matrices, sizes, preferred_element_type=dtype)
  return of_rows, jax.linear_transpose(ragged, matrices)(gradient)[0], None


_in_blocks.defvjp(_forward, _backward)


def _multiply(rows: Array, matrices: Array, sizes: Array, *, block: int, dtype: Any, axis: int) -> Array:
  """Returns [M, ·]: every row times the matrix of its group, whose `axis` is summed over.

  The last block of a group reads on into the next group's rows. Blocks are computed in their order, so the next blocks
  replace these results.
  """
  blocks = -(-sizes // block)
  ends, first = jnp.cumsum(blocks), jnp.cumsum(sizes) - sizes
  numbers = jnp.arange(len(rows) // block + min(len(matrices), len(rows)))  # as many as there can be
  groups = jnp.minimum(jnp.searchsorted(ends, numbers, side='right'), len(matrices) - 1)
  starts = first[groups] + (numbers - (ends - blocks)[groups]) * block
  rows = jnp.pad(rows, ((0, block - 1), (0, 0)))

  def multiply(number: Array, written: Array) -> Array:
    read = jax.lax.dynamic_slice_in_dim(rows, starts[number], block)
    y = jax.lax.dot_general(read, matrices[groups[number]], (((1,), (axis - 1,)), ((), ())),
                            preferred_element_type=dtype)
    return jax.lax.dynamic_update_slice_in_dim(written, y, starts[number], 0)

  written = jnp.zeros((len(rows), matrices.shape[3 - axis]), dtype)
  return jax.lax.fori_loop(0, ends[-1], multiply, written)[:len(rows) - block + 1]
