"""Layers of different kinds in one stack: a group of them is repeated, and the scan is over the groups.

    decoder/layers/0_of_4/delta_attention/…    [L/4, …], the layers 0, 4, 8, …
    decoder/layers/1_of_4/delta_attention/…              the layers 1, 5, 9, …
    decoder/layers/2_of_4/delta_attention/…
    decoder/layers/3_of_4/self_attention/…               the layers 3, 7, 11, …

An array that is no parameter has a leading axis of the layers that read it: all of them, those with attention (keys and
values, scales of their dense layers), or the delta layers (states, their scales). It is cut into groups, then into the
group's layers of that kind.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.devices import sharding
from prompt_tuning.models.apart import Apart
from prompt_tuning.models.layers import Layer
from prompt_tuning.models.stack_config import StackConfig
from prompt_tuning.models.surroundings import Scanned, Surroundings
from prompt_tuning.types import Array


def member_name(config: StackConfig, place: int) -> str:
  """Returns the name of the parameters of the layer at a place in the group."""
  return f'{place}_of_{len(config.group)}'


class Group(nn.Module):
  """The layers of one group, one after the other.

  Attributes:
    config: the stack's shape.
    layer: makes a layer.
  """

  config: StackConfig
  layer: Callable[..., nn.Module] = Layer

  @nn.compact
  def __call__(self, x: Array, scanned: Scanned, around: Surroundings) -> tuple[Array, Any]:
    """Returns the output of the last layer, and what `collected` makes of the layers' own results."""
    config, owns = self.config, []
    for place, delta in enumerate(config.group):
      layer = self.layer(config, delta, name=member_name(config, place))
      x, own = layer(sharding.constrain(x, config.mesh, 'batch'), of_layer(scanned, config.group, place), around)
      owns.append(own)
    return x, collected(owns, config.group)


def by_group(scanned: Scanned, config: StackConfig) -> Scanned:
  """Returns the arrays [L, ...] as [groups, layers of a group, ...]."""
  groups = config.layers // len(config.group)
  return jax.tree.map(lambda array: array.reshape(groups, -1, *array.shape[1:]), scanned)


def of_layer(scanned: Scanned, kinds: Sequence[bool], place: int) -> Scanned:
  """Returns what the layer at a place reads of the arrays of a group, or of a stack, whose layers have these kinds."""
  delta = kinds[place]
  rank = sum(kind == delta for kind in kinds[:place])
  take = lambda tree, at: jax.tree.map(lambda array: array[at], tree, is_leaf=lambda leaf: isinstance(leaf, Apart))
  foreign = 'self_attention/' if delta else 'delta_attention/'
  scales = {name: array[place if name.startswith('mlp/') else rank] for name, array in scanned.scales.items()
            if not name.startswith(foreign)}
  return dataclasses.replace(
    take(dataclasses.replace(scanned, fronts=(), scales={}, state=None), place), scales=scales,
    fronts=() if delta else take(scanned.fronts, rank), state=take(scanned.state, rank) if delta else None)


def collected(owns: Sequence[Any], kinds: Sequence[bool]) -> tuple[Any, ...]:
  """Returns the layers' own results stacked: keys and values of those with attention, then the delta layers' state."""
  stack = lambda found: jax.tree.map(lambda *arrays: jnp.stack(arrays), *found)
  states = [own for own, delta in zip(owns, kinds, strict=False) if delta]
  keys, values = stack([own for own in owns if isinstance(own, tuple)])
  return (keys, values, stack(states)) if states else (keys, values)
