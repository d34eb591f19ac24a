"""The parameters that a model runs with: the frozen ones, with retrained copies and low-rank updates applied."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from prompt_tuning import trees
from prompt_tuning.devices import sharding
from prompt_tuning.models.apart import Apart, as_bits
from prompt_tuning.models.quantised import dequantised
from prompt_tuning.names import nearest
from prompt_tuning.rows.conditioning import Conditioning, LowRankUpdate
from prompt_tuning.types import Array, Params


def ready(module: Any, frozen: Params, retrained: Mapping[str, Array | LowRankUpdate]) -> Params:
  """Returns the parameters for `module.apply`, inside a compiled function, with those outside the layers gathered.

  They are those of `merge`, but the factors of a dense layer's low-rank updates stay apart, as `down` and `up` beside
  its kernel: `dense.apply` loses nothing of them, and the frozen matrix is neither copied nor differentiated.

  Raises:
    ValueError: as in `merge`.
  """
  beside = {name: value for name, value in retrained.items()
            if isinstance(value, LowRankUpdate) and name.endswith('/kernel')}
  mesh = module.config.mesh

  def own(name: str, value: Array | LowRankUpdate) -> Array | LowRankUpdate:
    if not isinstance(value, LowRankUpdate):
      return sharding.own_part(name, value, mesh)
    return LowRankUpdate(sharding.own_part(name, value.down, mesh, axis=0),
                         sharding.own_part(name, value.up, mesh, axis=1))

  params = merge(frozen, {name: own(name, value) for name, value in retrained.items() if name not in beside})
  if beside:
    flat = trees.flatten(frozen)  # the parts of this device, if the caller is mapped over devices
    chosen: dict[str, dict[int | None, LowRankUpdate]] = {}
    for name, update in beside.items():
      path, layer = _place(name, own(name, update), flat)
      chosen.setdefault(path, {})[layer] = update
    factors = {f'{path.removesuffix("kernel")}{part}': array for path, updates in chosen.items()
               for part, array in _factors(updates, flat[path].shape[0]).items()}
    params = trees.unflatten({**trees.flatten(params), **factors})
  if mesh is None:
    return as_bits(params)
  return trees.map_named(
    lambda path, array: array if trees.is_stacked(path) else sharding.gather(path, array, mesh), params)


def merge(frozen: Params, retrained: Mapping[str, Array | LowRankUpdate]) -> Params:
  """Returns the parameters with retrained copies in place, in the copies' type; layers are stacked again.

  Args:
    frozen: θ, layers stacked.
    retrained: the checkpoint's name -> copy, or low-rank update.

  Raises:
    ValueError: a copy has another name or shape than the model's parameters.
  """
  if not retrained:
    return frozen
  flat = trees.flatten(frozen)
  changed = {trees.split_layer_name(name, flat)[0] for name in retrained}
  flat = {path: _dequantised(array) if path in changed else array for path, array in flat.items()}
  chosen: dict[str, dict[int | None, Array]] = {}
  for name, value in retrained.items():
    path, layer = _place(name, value, flat)
    if isinstance(value, LowRankUpdate):
      value = (flat[path] if layer is None else flat[path][layer]) + value.down @ value.up
    chosen.setdefault(path, {})[layer] = value
  for path, copies in chosen.items():
    flat[path] = copies[None] if None in copies else (
      flat[path].replaced(copies) if isinstance(flat[path], Apart) else _stack(copies, flat[path]))
  return trees.unflatten(flat)


def merged(frozen: Params, conditioning: Conditioning) -> Params:
  """Returns parameters that do without the conditioning: retrained copies, low-rank updates and scales are in them.

  Raises:
    ValueError: the conditioning has other fields, such as a prompt, which are not part of the weights.
  """
  others = [name for name in conditioning.given() if not name.endswith('.scales')]
  if others:
    raise ValueError(f'{others[0]} cannot be merged into the weights, only retrained parameters, low-rank updates and '
                     'scales. Keep its file, and give it to eval, infer or serve with --prompt.')
  flat = trees.flatten(merge(frozen, conditioning.parameters))
  for stack in ('encoder', 'decoder'):
    for place, array in (getattr(conditioning, stack).scales or {}).items():
      name, _, side = place.rpartition('/')
      kernels = trees.of_groups(f'{stack}/layers/{name}/kernel', flat)
      layers = {kernel: [trees.layer_number(kernel, i) for i in range(flat[kernel].shape[0])] for kernel in kernels}
      places = {layer: place for place, layer in enumerate(sorted(itertools.chain(*layers.values())))}
      for kernel in kernels:
        width = flat[kernel].shape[-2 if side == 'input' else -1]
        # [L, 1, width] -> [L, width], of the layers that the kernel holds
        factors = array[jnp.array([places[layer] for layer in layers[kernel]]), 0, :width]
        along, bias = factors[:, :, None] if side == 'input' else factors[:, None], f'{kernel[:-len("kernel")]}bias'
        experts = len(flat[kernel].shape) == 4  # [L, E, in, out]
        flat[kernel] = dequantised(flat[kernel]) * (along[:, None] if experts else along)
        if side == 'output' and bias in flat:
          flat[bias] = flat[bias] * (factors[:, None] if experts else factors)
  return trees.unflatten(flat)


def _dequantised(array: Any) -> Any:
  return Apart(tuple(map(dequantised, array.layers))) if isinstance(array, Apart) else dequantised(array)


def _stack(copies: Mapping[int, Array], others: Array) -> Array:
  """Returns the copies of some layers stacked, with the other layers of `others` [L, ...] between them."""
  layers = sorted(copies)
  stacked = jnp.stack([copies[layer] for layer in layers])
  if len(layers) == others.shape[0]:
    return stacked
  return others.astype(jnp.promote_types(others.dtype, stacked.dtype)).at[jnp.array(layers)].set(stacked)


def _factors(updates: Mapping[int | None, LowRankUpdate], layers: int) -> dict[str, Array]:
  """Returns the factors of one kernel's updates, stacked over layers: 0 in other layers and beyond a lower rank."""
  rank = max(update.down.shape[1] for update in updates.values())
  found = {}
  for part, axis in (('down', 1), ('up', 0)):
    copies = {layer: _padded(getattr(update, part), axis, rank) for layer, update in updates.items()}
    shape = next(iter(copies.values())).shape
    found[part] = copies[None] if None in copies else _stack(copies, jnp.zeros((layers, *shape)))
  return found


def _padded(factor: Array, axis: int, rank: int) -> Array:
  return jnp.pad(factor, [(0, rank - size if axis == i else 0) for i, size in enumerate(factor.shape)])


def _place(name: str, value: Array | LowRankUpdate, flat: Mapping[str, Array]) -> tuple[str, int | None]:
  """Returns the stacked path and the layer of a name. Raises ValueError if the model lacks it, or its shape differs."""
  path, layer = trees.split_layer_name(name, flat)
  if path not in flat or trees.is_stacked(path) != (layer is not None):
    raise ValueError(f'The model has no parameter {name}.{nearest(path, flat)}')
  if layer is not None and layer >= flat[path].shape[0]:
    raise ValueError(f'The model has no parameter {name}. It has {flat[path].shape[0]} layers there, counted from 0.')
  found = (value.down.shape[0], value.up.shape[1]) if isinstance(value, LowRankUpdate) else tuple(value.shape)
  wanted = flat[path].shape if layer is None else flat[path].shape[1:]
  if found != wanted:
    raise ValueError(f'{name} has shape {found}, but the model expects {tuple(wanted)}. '
                     'Use tensors that were trained for this model.')
  return path, layer
