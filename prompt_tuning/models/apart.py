"""The weights of a stack's layers on CPUs: as arrays of their own for decoding, and as bits in a scan.

A scan over stacked weights copies each layer's out of the stacks before XLA's CPU backend multiplies with them: at
every token, the weights are moved three times. Weights that are separate arrays are only read. On a CPU they are views
of the stacked arrays' memory, so a model has both, and one copy.

Where a scan is kept, as in training, that backend takes a layer of bfloat16 out of a stack by way of float32, for which
it converts all of the stack. Integers of the same bits are copied as they are.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning import trees
from prompt_tuning.models.quantised import Quantised
from prompt_tuning.types import Array, Params

LEAST = 1 << 25  # bytes: smaller weights stay in the processor's caches, and unrolled layers take longer to compile


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Apart:
  """What a stacked array [L, ...] holds.

  Attributes:
    layers: L arrays.
  """

  layers: tuple[Array | Quantised, ...]

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the stacked array."""
    return len(self.layers), *self.layers[0].shape

  def __getitem__(self, layer: int | slice) -> 'Array | Quantised | Apart':
    """Returns the array of one layer, or what holds those of some."""
    return Apart(self.layers[layer]) if isinstance(layer, slice) else self.layers[layer]

  def replaced(self, copies: dict[int, Array]) -> 'Apart':
    """Returns the same with other arrays for some layers."""
    return Apart(tuple(copies.get(number, layer) for number, layer in enumerate(self.layers)))


def apart(params: Params, mesh: Any = None) -> Params:
  """Returns the parameters with the layers' apart, if the model is on one CPU and large; else as they are."""
  size = sum(array.nbytes for array in jax.tree.leaves(params))
  if mesh is not None or jax.default_backend() != 'cpu' or size < LEAST:
    return params
  return trees.map_named(lambda path, array: _views(array) if trees.is_stacked(path) else array, params)


def _views(stacked: Array | Quantised) -> Apart:
  if isinstance(stacked, Quantised):
    values, scales = _views(stacked.values), _views(stacked.scale)
    return Apart(tuple(map(Quantised, values.layers, scales.layers)))
  # Neither line copies: JAX shares a CPU array's memory with NumPy, and takes an array of NumPy's that is aligned.
  whole = np.asarray(stacked)
  return Apart(tuple(jax.device_put(whole[layer]) for layer in range(len(whole))))


def as_bits(params: Params) -> Params:
  """Returns the parameters with stacks of bfloat16 as integers, on a CPU. They have no gradient."""
  if jax.default_backend() != 'cpu':
    return params
  return trees.map_named(lambda path, array: jax.lax.bitcast_convert_type(array, jnp.uint16) if (
    trees.is_stacked(path) and getattr(array, 'dtype', None) == jnp.bfloat16) else array, params)
