"""A digest of a frozen model's weights, from a sample of each array."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from prompt_tuning import trees
from prompt_tuning.devices import sharding
from prompt_tuning.rows.text_layout import HEAD
from prompt_tuning.types import Array, Params

_POINTS = 64  # numbers of each array


def weights_digest(params: Params, mesh: Mesh | None, *, head: bool = False) -> str | None:
  """Returns a digest of weights, the same on any mesh, and in float32 and bfloat16; None of weights in 8 bits.

  Args:
    params: the weights.
    mesh: of their devices.
    head: leave out a classification head, which is never frozen: what it was before training says nothing.
  """
  kept = [part for name, part in trees.flatten(params).items() if not (head and trees.matches(name, (HEAD,)))]
  leaves = jax.tree.leaves(kept)
  if any(leaf.dtype == jnp.int8 for leaf in leaves):
    return None  # which are rounded on the devices, and may differ between them
  if mesh is None and all(leaf.devices() <= set(jax.devices('cpu')) for leaf in leaves if isinstance(leaf, jax.Array)):
    samples = [_sample(np.asarray(leaf)) for leaf in leaves]  # without a copy
  else:
    samples = jax.jit(lambda arrays: sharding.whole(mesh, [_sample(each) for each in arrays]))(leaves)
  found = hashlib.sha256()
  for leaf, sample in zip(leaves, samples, strict=True):
    found.update(str(leaf.shape).encode() + np.asarray(sample, jnp.bfloat16).tobytes())
  return found.hexdigest()[:16]


def _sample(array: Array) -> Array:
  """Returns numbers of an array, spread over all its axes."""
  places = tuple(np.arange(_POINTS) * (2 * axis + 7919) % size for axis, size in enumerate(array.shape))
  return array[places] if places else array
