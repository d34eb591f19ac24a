"""Sharding: the mesh axes over which each axis of a parameter or activation is split, see `meshes`.

  data    the rows of a batch. Parameters are copied; replicas exchange only the gradients of trainable parameters.
  fsdp    the rows of a batch, and the width of parameters, which are gathered layer by layer as the scan reaches
          them (Rajbhandari et al. 2020). Frozen weights have no gradient to scatter back.
  model   heads, the hidden width of the MLP or of each expert, and the vocabulary; activations are summed twice a layer
          (Shoeybi et al. 2019).

The mesh of a single device is None; all functions here then return arrays unchanged.
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
# End of a parameter's path -> its last axes. Parameters hold all layers; the layer axis is never split.
PARAMETERS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r'token_embedder/embedding', ('vocab', 'width')),
  (r'((position|type)_embedder/embedding|input_layer/kernel)', (None, 'width')),
  (r'(pooler|mask_head/dense)/kernel', ('width', None)),
  (r'(query|key|value)/kernel', ('width', 'heads')),
  (r'(query|key|value)/bias', ('heads',)),
  (r'(gate|rate|decay)/kernel', ('width', 'heads')),
  (r'(gate|decay)/bias', ('heads',)),
  (r'(query|key|value)_taps', ('heads', None, None)),
  (r'(sinks|log_decay)', ('heads',)),
  (r'router/kernel', ('width', None)),
  (r'out/kernel', ('heads', 'width')),
  (r'input_projection/kernel', (None, 'width')),
  (r'layer_embeddings/projection/kernel', ('width', None)),
  (r'output_projection/kernel', ('width', None)),
  (r'wi(_\d)?/kernel', ('width', 'mlp')),
  (r'wi(_\d)?/bias', ('mlp',)),
  (r'wo/kernel', ('mlp', 'width')),
  (r'logits_dense/kernel', ('width', 'vocab')),
  (r'(out|wo|router|input_layer|pooler|logits_dense|mask_head|mask_head/dense)/bias', (None,)),
  (r'(scale|norm/bias|rel_embedding|image_end)', ()),
  (r'(down|up)', ()),  # of a low-rank update, beside a kernel
)


def spec(path: str, shape: Sequence[int], mesh: Mesh | None, *, gathered: bool = False) -> PartitionSpec:
  """Returns the mesh axes over which each axis of a parameter is split.

  A vocabulary that does not divide evenly is not split (GPT-2's has 50,257 words), nor is an axis of length 1 (of
  scales).

  Args:
    path: the parameter's path; the array holds all layers or one.
    shape: the parameter's shape.
    mesh: the mesh over which it is sharded.
    gathered: return the sharding during use, with the width gathered.

  Raises:
    ValueError: no rule matches the parameter.
  """
  axes = next((axes for pattern, axes in PARAMETERS if re.search(f'(^|[/_]){pattern}$', path)), None)
  if axes is None:
    raise ValueError(f'No rule in sharding.PARAMETERS matches the parameter {path}. Add one.')
  split: list[Any] = [None] * (len(shape) - len(axes))
  for axis, length in zip(axes, shape[len(split):], strict=True):
    over = () if axis is None or (gathered and axis == 'width') else RULES[axis]
    size = math.prod(mesh.shape[name] for name in over) if mesh else 1
    kept = size == 1 or length == 1 or (axis == 'vocab' and length % size)
    split.append(None if kept else over)
  return PartitionSpec(*(names[0] if names and len(names) == 1 else names for names in split))


def parameter_sharding(path: str, shape: Sequence[int], mesh: Mesh) -> NamedSharding:
  """Returns the sharding in which a parameter is stored."""
  return NamedSharding(mesh, spec(path, shape, mesh))


def gather(path: str, parameter: Any, mesh: Mesh | None) -> Any:
  """Returns a parameter with its width gathered, for use within a compiled function."""
  if mesh is None:
    return parameter

  def one(array: Array) -> Array:
    kept = spec(path, array.shape, mesh)
    if 'fsdp' in kept and 'fsdp' in mapped_axes():
      together = functools.partial(jax.lax.all_gather, axis_name='fsdp', axis=list(kept).index('fsdp'), tiled=True)
      of_model = _only(kept, {'model'})  # gather each model shard separately; the compiler would not
      return jax.shard_map(together, in_specs=of_model, out_specs=of_model, axis_names={'model'},
                           check_vma=False)(array)
    return _constrain(array, mesh, spec(path, array.shape, mesh, gathered=True))

  return jax.tree.map(one, parameter)


def own_part(path: str, array: Array, mesh: Mesh | None, *, axis: int | None = None) -> Array:
  """Returns this device's shard of a whole parameter, within a function mapped by `sum_over_rows`.

  `gather` is the inverse. Outside of such a function the compiler shards arrays, and the array is returned unchanged.

  Args:
    path: the parameter's path.
    array: the parameter of all layers or one, or a factor of it.
    mesh: the mesh over which the parameter is sharded.
    axis: split only if this axis is the sharded one; None splits whichever axis is sharded.
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
  """Returns an activation sharded along its first axes according to `RULES`, within a compiled function.

  Axes that do not divide evenly are not split: for example, one prompt for all rows.
  """
  if mesh is None:
    return x
  over = []
  for axis, length in zip(axes, x.shape, strict=False):
    names = RULES[axis] if axis else ()
    over.append(names if names and length % math.prod(mesh.shape[name] for name in names) == 0 else None)
  return _constrain(x, mesh, PartitionSpec(*over))


def whole(mesh: Mesh | None, tree: Any) -> Any:
  """Returns results of a compiled function replicated to every device, so that every host can read them."""
  return tree if mesh is None else jax.tree.map(lambda x: _constrain(x, mesh, PartitionSpec()), tree)


def mapped_axes() -> frozenset[str]:
  """Returns the axes over which the function being compiled is mapped, see `sum_over_rows`."""
  context = jax.sharding.get_abstract_mesh()
  return frozenset() if context.empty else frozenset(context.manual_axes)


def _constrain(x: Array, mesh: Mesh, wanted: PartitionSpec) -> Array:
  manual = mapped_axes()
  if not manual:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, wanted))
  return jax.lax.with_sharding_constraint(x, _only(wanted, set(AXES) - manual))


def _only(wanted: PartitionSpec, axes: set[str]) -> PartitionSpec:
  """Returns the specification restricted to `axes`."""
  split = [tuple(name for name in ((names,) if isinstance(names, str) else names or ()) if name in axes)
           for names in wanted]
  return PartitionSpec(*(names[0] if len(names) == 1 else names or None for names in split))


def sum_over_rows(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
  """Returns `function(params, shared, batch)`, whose results are sums over rows, run by each device on its own rows.

  The collectives are then explicit: the results are summed once at the end, and `gather` gathers parameters. If left to
  the compiler, gradients of the keys and values that all rows share would be summed instead.
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
  """Returns a tree of arrays replicated to every device; each array is held by every host or sharded over all."""
  if mesh is None:
    return tree
  everywhere = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(lambda x: jax.make_array_from_callback(np.shape(x), everywhere, on_host(x).__getitem__), tree)


def rows_of_host(mesh: Mesh | None, count: int) -> slice:
  """Returns the rows of a batch that this host's devices read."""
  if mesh is None:
    return slice(0, count)
  spans = [index[0].indices(count) for index in _rows(mesh).addressable_devices_indices_map((count,)).values()]
  return slice(min(start for start, _, _ in spans), max(stop for _, stop, _ in spans))


def global_batch(mesh: Mesh | None, batch: Batch, count: int) -> Batch:
  """Returns a batch of `count` rows on the devices of all hosts, given this host's rows as in `rows_of_host`."""
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
  """Returns the whole array, however it is sharded."""
  if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
    array = jax.jit(lambda x: x, out_shardings=NamedSharding(array.sharding.mesh, PartitionSpec()))(array)
  return np.asarray(array)


def bytes_of_device(shapes: Mapping[str, Any], mesh: Mesh | None) -> int:
  """Returns the bytes of parameters per device, given path -> shape and type, or several of these for 8-bit weights."""
  total = 0
  for path, parameter in trees.flatten(shapes).items():
    for array in jax.tree.leaves(parameter):
      held = parameter_sharding(path, array.shape, mesh).shard_shape(array.shape) if mesh else array.shape
      total += math.prod(held) * np.dtype(array.dtype).itemsize
  return total
