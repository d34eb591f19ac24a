"""Frozen matrices in 8 bits: weights only, one scale for each output (Dettmers et al. 2022 call it vector-wise).

Activations are not rounded, and gradients pass through to the trained tensors. A layer's matrices are converted back to
the activations' type when the scan reaches them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning import trees
from prompt_tuning.types import Array

INT8 = 'int8'


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantised:
  """A matrix, or the stacked matrices of all layers: values · scale.

  Attributes:
    values: [..., in, out] of -127 to 127, int8.
    scale: [..., 1, out], float32.
  """

  values: Array
  scale: Array

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the matrix."""
    return self.values.shape

  @property
  def size(self) -> int:
    """The number of weights."""
    return self.values.size

  @property
  def dtype(self) -> Any:
    """The type of the values."""
    return self.values.dtype

  def __getitem__(self, layer: int) -> 'Quantised':
    """Returns the matrix of one layer."""
    return Quantised(self.values[layer], self.scale[layer])

  def __jax_array__(self) -> Array:
    """Returns the matrix in floating point, for example as the start of retrained copies."""
    return dequantised(self)


def quantise(matrix: Array) -> Quantised:
  """Rounds a matrix [..., in, out] to 255 evenly spaced values, scaled by each output's largest absolute weight."""
  matrix = matrix.astype(jnp.float32)
  largest = jnp.max(jnp.abs(matrix), axis=-2, keepdims=True)
  scale = jnp.where(largest > 0, largest / 127, 1.0)
  return Quantised(jnp.round(matrix / scale).astype(jnp.int8), scale)


def dequantised(array: Array | Quantised, dtype: Any = jnp.float32) -> Array:
  """Returns the matrix in floating point of a given type; bits of `apart.as_bits` as bfloat16; others unchanged."""
  if array.dtype == jnp.uint16:
    return jax.lax.bitcast_convert_type(array, jnp.bfloat16)
  if not isinstance(array, Quantised):
    return array
  return (array.values.astype(jnp.float32) * array.scale).astype(dtype)


def is_quantisable(path: str) -> bool:
  """Returns True for the layers' matrices; embeddings, biases, norms, routers and the output layer are not quantised.

  Rounding a router would change which experts a token chooses; the rates of a state are small, and errors add up in it.
  """
  exact = ('/router/kernel', '/delta_attention/rate/kernel', '/delta_attention/decay/kernel')
  return trees.is_stacked(path) and path.endswith('/kernel') and not path.endswith(exact)
