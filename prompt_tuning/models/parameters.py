"""Puts retrained copies in the places of frozen parameters."""

from collections.abc import Mapping

import jax.numpy as jnp

from prompt_tuning import trees
from prompt_tuning.types import Array, Params


def merge(frozen: Params, retrained: Mapping[str, Array]) -> Params:
  """Returns the parameters with retrained copies in their places; layers are stacked again.

  Args:
    frozen: θ, layers stacked.
    retrained: the checkpoint's name -> copy.
  """
  if not retrained:
    return frozen
  flat = trees.flatten(frozen)
  chosen: dict[str, dict[int | None, Array]] = {}
  for name, value in retrained.items():
    path, layer = trees.split_layer_name(name)
    if path not in flat:
      raise ValueError(f'The model has no parameter {name}.{trees.nearest(path, flat)}')
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
