"""Where arrays live on many devices: what each axis of a parameter or activation is split over, see `meshes`.

  data    the rows of a batch. Parameters are copied; replicas exchange the gradient of what is trained, nothing else.
  fsdp    the rows of a batch, and the width of parameters, which are gathered layer by layer when the scan comes to
          them (Rajbhandari et al. 2020). Frozen weights have no gradient to scatter back.
  model   heads, the MLP's hidden width and the vocabulary; activations are summed twice a layer (Shoeybi et al. 2019).

A mesh of one device is None, and everything here then leaves arrays as they are.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from prompt_tuning import trees
from prompt_tuning.devices.meshes import AXES
from prompt_tuning.types import Array, Batch

RULES: dict[str, tuple[str, ...]] = {
  'batch': ('data', 'fsdp'), 'width': ('fsdp',), 'heads': ('model',), 'mlp': ('model',), 'vocab': ('model',)}
# The end of a parameter's path -> its last axes. Parameters hold all layers, whose axis is never split.
PARAMETERS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r'token_embedder/embedding', ('vocab', 'width')),
  (r'(position_embedder/embedding|input_layer/kernel)', (None, 'width')),
  (r'(query|key|value)/kernel', ('width', 'heads')),
  (r'(query|key|value)/bias', ('heads',)),
  (r'out/kernel', ('heads', 'width')),
  (r'wi(_\d)?/kernel', ('width', 'mlp')),
  (r'wi(_\d)?/bias', ('mlp',)),
  (r'wo/kernel', ('mlp', 'width')),
  (r'logits_dense/kernel', ('width', 'vocab')),
  (r'(out|wo|input_layer|logits_dense)/bias', (None,)),
  (r'(scale|norm/bias|rel_embedding)', ()),
)


def spec(path: str, shape: Sequence[int], mesh: Mesh | None, *, gathered: bool = False) -> PartitionSpec:
  """Returns what each axis of a parameter is split over.

  A vocabulary that does not divide stays whole (GPT-2's has 50,257 words), and so does an axis of length 1 (of scales).

  Args:
    path: the parameter's; of an array of all layers, or of one.
    shape: its own.
    mesh: over which it is spread.
    gathered: as it is when it is used, its width whole.

  Raises:
    ValueError: no rule names the parameter.
  """
  axes = next((axes for pattern, axes in PARAMETERS if re.search(f'(^|[/_]){pattern}$', path)), None)
  if axes is None:
    raise ValueError(f'No rule of sharding.PARAMETERS says how {path} is split. Add one.')
  split: list[Any] = [None] * (len(shape) - len(axes))
  for axis, length in zip(axes, shape[len(split):], strict=True):
    over = () if axis is None or (gathered and axis == 'width') else RULES[axis]
    size = math.prod(mesh.shape[name] for name in over) if mesh else 1
    kept = size == 1 or length == 1 or (axis == 'vocab' and length % size)
    split.append(None if kept else over)
  return PartitionSpec(*(names[0] if names and len(names) == 1 else names for names in split))


def placement(path: str, shape: Sequence[int], mesh: Mesh) -> NamedSharding:
  """Returns where a parameter is kept."""
  return NamedSharding(mesh, spec(path, shape, mesh))


def gather(path: str, parameter: Any, mesh: Mesh | None) -> Any:
  """Returns a parameter as it is used, within a compiled function: its width is brought together."""
  if mesh is None:
    return parameter

  def one(array: Array) -> Array:
    kept = spec(path, array.shape, mesh)
    if 'fsdp' in kept and 'fsdp' in mapped_axes():
      together = functools.partial(jax.lax.all_gather, axis_name='fsdp', axis=list(kept).index('fsdp'), tiled=True)
      of_model = _only(kept, {'model'})  # each part of it is gathered by itself, which the compiler would not do
      return jax.shard_map(together, in_specs=of_model, out_specs=of_model, axis_names={'model'},
                           check_vma=False)(array)
    return _constrain(array, mesh, spec(path, array.shape, mesh, gathered=True))

  return jax.tree.map(one, parameter)


def own_part(path: str, array: Array, mesh: Mesh | None, *, axis: int | None = None) -> Array:
  """Returns what this device keeps of a parameter that is whole, within a function that `sum_over_rows` maps.

  `gather` undoes it. Elsewhere the compiler parts arrays, and this one stays as it is.

  Args:
    path: the parameter's.
    array: of all layers, or of one; or a factor of it.
    mesh: over which the parameter is spread.
    axis: part this one alone; None is whichever is split.
  """
  if mesh is None or 'fsdp' not in mapped_axes():
    return array
  kept = list(spec(path, array.shape, mesh))
  if 'fsdp' not in kept or axis not in (None, kept.index('fsdp')):
    return array
  split = kept.index('fsdp')
  size = array.shape[split] // mesh.shape['fsdp']
  return jax.lax.dynamic_slice_in_dim(array, jax.lax.axis_index('fsdp') * size, size, split)


def constrain(x: Array, mesh: Mesh | None, *axes: str | None) -> Array:
  """Returns an activation split along its first axes as `RULES` say, within a compiled function.

  Axes that do not divide stay whole: one prompt for all rows is not split.
  """
  if mesh is None:
    return x
  over = []
  for axis, length in zip(axes, x.shape, strict=False):
    names = RULES[axis] if axis else ()
    over.append(names if names and length % math.prod(mesh.shape[name] for name in names) == 0 else None)
  return _constrain(x, mesh, PartitionSpec(*over))


def whole(mesh: Mesh | None, tree: Any) -> Any:
  """Returns results of a compiled function copied to every device, so that every host can read them."""
  return tree if mesh is None else jax.tree.map(lambda x: _constrain(x, mesh, PartitionSpec()), tree)


def mapped_axes() -> frozenset[str]:
  """Returns the axes that the function being compiled is mapped over, see `sum_over_rows`."""
  context = jax.sharding.get_abstract_mesh()
  return frozenset() if context.empty else frozenset(context.manual_axes)


def _constrain(x: Array, mesh: Mesh, wanted: PartitionSpec) -> Array:
  manual = mapped_axes()
  if not manual:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, wanted))
  return jax.lax.with_sharding_constraint(x, _only(wanted, set(AXES) - manual))


def _only(wanted: PartitionSpec, axes: set[str]) -> PartitionSpec:
  """Returns the specification without other axes."""
  split = [tuple(name for name in ((names,) if isinstance(names, str) else names or ()) if name in axes)
           for names in wanted]
  return PartitionSpec(*(names[0] if len(names) == 1 else names or None for names in split))


def sum_over_rows(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
  """Returns `function(params, shared, batch)`, whose results are sums over rows, run by each device on rows of its own.

  What is exchanged is then written out: the results, once, at the end, and parameters that `gather` brings together.
  Left to the compiler, the keys and values that all rows share would have their gradients summed instead.
  """
  if mesh is None or mesh.shape['data'] * mesh.shape['fsdp'] == 1:
    return function
  over = set(RULES['batch'])

  def mapped(params: Any, shared: Any, batch: Batch) -> Any:
    kept = trees.map_named(lambda path, parameter: jax.tree.map(
      lambda array: _only(spec(path, array.shape, mesh), over), parameter), params)
    return jax.shard_map(lambda *parts: jax.lax.psum(function(*parts), RULES['batch']), mesh=mesh,
                         in_specs=(kept, PartitionSpec(), PartitionSpec(RULES['batch'])),
                         out_specs=PartitionSpec(), axis_names=over, check_vma=False)(params, shared, batch)

  return mapped


def copied(mesh: Mesh | None, tree: Any) -> Any:
  """Returns a tree of arrays that every host holds, or that are spread over all, copied to every device."""
  if mesh is None:
    return tree
  everywhere = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(lambda x: jax.make_array_from_callback(np.shape(x), everywhere, on_host(x).__getitem__), tree)


def rows_of_host(mesh: Mesh | None, count: int) -> slice:
  """Returns which rows of a batch the devices of this host read."""
  if mesh is None:
    return slice(0, count)
  spans = [index[0].indices(count) for index in _rows(mesh).addressable_devices_indices_map((count,)).values()]
  return slice(min(start for start, _, _ in spans), max(stop for _, stop, _ in spans))


def global_batch(mesh: Mesh | None, batch: Batch, count: int) -> Batch:
  """Returns a batch of `count` rows on the devices of all hosts, of which this one has made those of `rows_of_host`."""
  if mesh is None:
    return batch
  first, sharding = rows_of_host(mesh, count).start, _rows(mesh)

  def place(array: np.ndarray) -> jax.Array:
    def part(index: tuple[slice, ...]) -> np.ndarray:
      start, stop, _ = index[0].indices(count)
      return array[start - first:stop - first]

    return jax.make_array_from_callback((count, *array.shape[1:]), sharding, part)

  return jax.tree.map(place, batch)


def _rows(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec(RULES['batch']))


def on_host(array: Array) -> np.ndarray:
  """Returns the whole of an array, however it is spread."""
  if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
    array = jax.jit(lambda x: x, out_shardings=NamedSharding(array.sharding.mesh, PartitionSpec()))(array)
  return np.asarray(array)


def bytes_of_device(shapes: Mapping[str, Any], mesh: Mesh | None) -> int:
  """Returns the bytes that each device holds of parameters, path -> shape and type, or several of these in 8 bits."""
  total = 0
  for path, parameter in trees.flatten(shapes).items():
    for array in jax.tree.leaves(parameter):
      held = placement(path, array.shape, mesh).shard_shape(array.shape) if mesh else array.shape
      total += math.prod(held) * np.dtype(array.dtype).itemsize
  return total
