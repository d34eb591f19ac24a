"""Frozen matrices in 8 bits: weights only, one scale for each output (Dettmers et al. 2022 call it vector-wise).

Activations are not rounded, and gradients pass through to what is trained. A layer's matrices are brought back to the
type of the activations when the scan comes to them.
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
  """A matrix, or those of all layers: values · scale.

  Attributes:
    values: [..., in, out] of -127 to 127, int8.
    scale: [..., 1, out], float32.
  """

  values: Array
  scale: Array

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the matrix."""
    return self.values.shape

  @property
  def size(self) -> int:
    """How many weights there are."""
    return self.values.size

  @property
  def dtype(self) -> Any:
    """Of the values."""
    return self.values.dtype

  def __getitem__(self, layer: int) -> 'Quantised':
    """Returns the matrix of one layer."""
    return Quantised(self.values[layer], self.scale[layer])

  def __jax_array__(self) -> Array:
    """Returns the matrix as numbers, such as retrained copies start from."""
    return dequantised(self)


def quantise(matrix: Array) -> Quantised:
  """Rounds a matrix [..., in, out] to the nearest of 255 even steps between each output's largest weights."""
  matrix = matrix.astype(jnp.float32)
  largest = jnp.max(jnp.abs(matrix), axis=-2, keepdims=True)
  scale = jnp.where(largest > 0, largest / 127, 1.0)
  return Quantised(jnp.round(matrix / scale).astype(jnp.int8), scale)


def dequantised(array: Array | Quantised, dtype: Any = jnp.float32) -> Array:
  """Returns the matrix as numbers of a type; other arrays as they are."""
  if not isinstance(array, Quantised):
    return array
  return (array.values.astype(jnp.float32) * array.scale).astype(dtype)


def is_quantisable(path: str) -> bool:
  """Says whether a parameter is rounded: the layers' matrices are, embeddings, biases, norms and the output are not."""
  return trees.is_stacked(path) and path.endswith('/kernel')
