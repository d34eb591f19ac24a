"""The parameters that a model runs with: the frozen ones, with retrained copies and low-rank updates applied."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from prompt_tuning import trees
from prompt_tuning.devices import sharding
from prompt_tuning.models.quantised import dequantised
from prompt_tuning.names import nearest
from prompt_tuning.rows.conditioning import LowRankUpdate
from prompt_tuning.types import Array, Params


def ready(module: Any, frozen: Params, retrained: Mapping[str, Array | LowRankUpdate]) -> Params:
  """Returns the parameters for `module.apply`, inside a compiled function: the result of `merge`, with the parameters
  outside the layers gathered."""
  mesh = module.config.mesh
  if mesh is None:
    return merge(frozen, retrained)

  def own(name: str, value: Array | LowRankUpdate) -> Array | LowRankUpdate:
    if not isinstance(value, LowRankUpdate):
      return sharding.own_part(name, value, mesh)
    return LowRankUpdate(sharding.own_part(name, value.down, mesh, axis=0),
                         sharding.own_part(name, value.up, mesh, axis=1))

  params = merge(frozen, {name: own(name, value) for name, value in retrained.items()})
  return trees.map_named(
    lambda path, array: array if trees.is_stacked(path) else sharding.gather(path, array, mesh), params)


def merge(frozen: Params, retrained: Mapping[str, Array | LowRankUpdate]) -> Params:
  """Returns the parameters with retrained copies in place; layers are stacked again.

  Args:
    frozen: θ, layers stacked.
    retrained: the checkpoint's name -> copy, or low-rank update.

  Raises:
    ValueError: a copy has another name or shape than the model's parameters.
  """
  if not retrained:
    return frozen
  flat = trees.flatten(frozen)
  changed = {trees.split_layer_name(name)[0] for name in retrained}
  flat = {path: dequantised(array) if path in changed else array for path, array in flat.items()}
  chosen: dict[str, dict[int | None, Array]] = {}
  for name, value in retrained.items():
    path, layer = trees.split_layer_name(name)
    low_rank = isinstance(value, LowRankUpdate)
    shape = (value.down.shape[0], value.up.shape[1]) if low_rank else value.shape
    _require_place(name, path, layer, shape, flat)
    if low_rank:
      value = (flat[path] if layer is None else flat[path][layer]) + value.down @ value.up
    chosen.setdefault(path, {})[layer] = value
  for path, copies in chosen.items():
    if None in copies:
      flat[path] = copies[None].astype(flat[path].dtype)
      continue
    layers = sorted(copies)
    stacked = jnp.stack([copies[layer] for layer in layers]).astype(flat[path].dtype)
    everything = len(layers) == flat[path].shape[0]
    flat[path] = stacked if everything else flat[path].at[jnp.array(layers)].set(stacked)
  return trees.unflatten(flat)


def _require_place(name: str, path: str, layer: int | None, shape: tuple[int, ...], flat: Mapping[str, Array]) -> None:
  if path not in flat or trees.is_stacked(path) != (layer is not None):
    raise ValueError(f'The model has no parameter {name}.{nearest(path, flat)}')
  if layer is not None and layer >= flat[path].shape[0]:
    raise ValueError(f'The model has no parameter {name}. It has {flat[path].shape[0]} layers there, counted from 0.')
  wanted = flat[path].shape if layer is None else flat[path].shape[1:]
  if shape != wanted:
    raise ValueError(f'{name} has shape {tuple(shape)}, but the model expects {tuple(wanted)}. '
                     'Use tensors that were trained for this model.')
