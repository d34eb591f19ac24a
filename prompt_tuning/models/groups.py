"""Layers of different kinds in one stack: a group of them is repeated, and the scan is over the groups.

    decoder/layers/0_of_4/delta_attention/…    [L/4, …], the layers 0, 4, 8, …
    decoder/layers/1_of_4/delta_attention/…              the layers 1, 5, 9, …
    decoder/layers/2_of_4/delta_attention/…
    decoder/layers/3_of_4/self_attention/…               the layers 3, 7, 11, …

If the last layers share keys and values, they are a second scan, whose places go on from the first one's last layer:

    decoder/layers/0_of_5/self_attention/…           [3, …], the layers 0, 5, 10
    decoder/shared_layers/15_of_5/self_attention/…   [4, …], the layers 15, 20, 25, 30

An array that is no parameter has a leading axis of the layers that read it: all of them, those with keys and values of
their own, the delta layers (states), or those with a dense layer (its scales). It is cut into the stack's parts, then
into groups, then into the group's layers that read it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.devices import sharding
from prompt_tuning.models.apart import Apart
from prompt_tuning.models.layer_kinds import Kind, Part, dense_of, kinds_of
from prompt_tuning.models.layers import Layer
from prompt_tuning.models.stack_config import StackConfig
from prompt_tuning.models.surroundings import Scanned, Surroundings
from prompt_tuning.types import Array


class Group(nn.Module):
  """The layers of one group, one after the other.

  Attributes:
    config: the stack's shape.
    part: whose layers they are.
    layer: makes a layer.
  """

  config: StackConfig
  part: Part
  layer: Callable[..., nn.Module] = Layer

  @nn.compact
  def __call__(self, x: Array, scanned: Scanned, around: Surroundings) -> tuple[Array, Any]:
    """Returns the output of the last layer, and what `collected` makes of the layers' own results."""
    config, kinds, owns = self.config, self.part.group, []
    for place, kind in enumerate(kinds):
      layer = self.layer(config, kind, name=self.part.member(place))
      x, own = layer(sharding.constrain(x, config.mesh, 'batch'), of_layer(scanned, config, kinds, place), around)
      owns.append(own)
    return x, collected(owns, kinds)


def by_group(scanned: Scanned, part: Part) -> Scanned:
  """Returns the arrays [L, ...] of a part as [groups, layers of a group, ...]."""
  groups = len(part.kinds) // len(part.group)
  return jax.tree.map(lambda array: array.reshape(groups, -1, *array.shape[1:]), scanned)


def of_part(scanned: Scanned, config: StackConfig, part: Part) -> Scanned:
  """Returns what the layers of a part read of the arrays of a stack."""
  if part.whole:
    return scanned
  last = part.first + len(part.kinds)

  def cut(tree: Any, reads: Sequence[bool]) -> Any:
    span = slice(sum(reads[:part.first]), sum(reads[:last]))
    return jax.tree.map(lambda array: array[span], tree, is_leaf=_is_apart)

  return _each(scanned, config, kinds_of(config), cut)


def of_layer(scanned: Scanned, config: StackConfig, kinds: Sequence[Kind], place: int) -> Scanned:
  """Returns what the layer at a place reads of the arrays of a group, or of a part, whose layers have these kinds."""

  def take(tree: Any, reads: Sequence[bool]) -> Any:
    rank = sum(reads[:place])
    return jax.tree.map(lambda array: array[rank] if reads[place] else None, tree, is_leaf=_is_apart)

  found, dense = _each(scanned, config, kinds, take), dense_of(config, kinds[place])
  width = lambda name: dense[name.rpartition('/')[0]][name.endswith('/output')]
  return dataclasses.replace(
    found, fronts=found.fronts if kinds[place].stores else (), state=found.state if kinds[place].delta else None,
    scales={name: array[..., :width(name)] for name, array in found.scales.items() if array is not None})


def _each(scanned: Scanned, config: StackConfig, kinds: Sequence[Kind],
          function: Callable[[Any, Sequence[bool]], Any]) -> Scanned:
  """Returns what a function makes of the arrays, given which of the layers read them."""
  dense = [dense_of(config, kind) for kind in kinds]
  others = dataclasses.replace(scanned, fronts=(), scales={}, state=None)
  return dataclasses.replace(
    function(others, [True] * len(kinds)), fronts=function(scanned.fronts, [kind.stores for kind in kinds]),
    state=function(scanned.state, [kind.delta for kind in kinds]),
    scales={name: function(array, [name.rpartition('/')[0] in each for each in dense])
            for name, array in scanned.scales.items()})


def collected(owns: Sequence[Any], kinds: Sequence[Kind]) -> tuple[Any, ...] | None:
  """Returns the layers' own results stacked: keys and values of those that have some, then the delta layers' state."""
  stack = lambda found: jax.tree.map(lambda *arrays: jnp.stack(arrays), *found)
  states = [own for own, kind in zip(owns, kinds, strict=True) if kind.delta]
  stored = [own for own, kind in zip(owns, kinds, strict=True) if kind.stores]
  if not stored:
    return None
  return (*stack(stored), stack(states)) if states else stack(stored)


def last_stored(own: tuple[Any, ...], fronts: Any, kinds: Sequence[Kind]) -> Mapping[bool, Any]:
  """Returns what shared layers read, for wide ones and others: the last layer's keys and values, and its fronts."""
  at = {kind.wide: number for number, kind in enumerate(kind for kind in kinds if kind.stores)}
  take = lambda tree, number: jax.tree.map(lambda array: array[number], tree, is_leaf=_is_apart)
  return {wide: (take(own[:2], number), take(fronts, number)) for wide, number in at.items()}


def _is_apart(leaf: Any) -> bool:
  return isinstance(leaf, Apart)
