"""The transformer stack: one layer, scanned over all layers with stacked parameters.

Compile time does not grow with depth. Decoding on CPUs unrolls the scan, see `apart`. The differences between families
are in `StackConfig`; the differences between layers are scanned with the weights. If a stack has layers of two kinds,
the scan is over groups of them, see `groups`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning import trees
from prompt_tuning.devices import sharding
from prompt_tuning.models import dense
from prompt_tuning.models.apart import Apart
from prompt_tuning.models.dense import Dense
from prompt_tuning.models.dropout import drop
from prompt_tuning.models.groups import Group, by_group, collected, last_stored, of_layer, of_part
from prompt_tuning.models.layer_kinds import Kind, Part, parts_of
from prompt_tuning.models.layer_positions import add_linear_biases, add_relative_biases
from prompt_tuning.models.layers import Layer
from prompt_tuning.models.norms import norm
from prompt_tuning.models.quantised import dequantised
from prompt_tuning.models.scaling import Scaling
from prompt_tuning.models.stack_config import REMATERIALISE, StackConfig
from prompt_tuning.models.surroundings import Scanned, Surroundings
from prompt_tuning.rows.conditioning import State
from prompt_tuning.types import Array

# What a run hands to later positions: keys and values [L, B, kv_heads, T, K] of the layers that have their own, and the
# state of the delta layers, if there are any.
Own = tuple[Array, Array] | tuple[Array, Array, State]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Front:
  """Keys and values before every layer's own: a prefix, a prompt or text that was run before, or a cache.

  A front with fewer rows than the input is shared, see `attention.Block`.

  Attributes:
    keys: [L, B, kv_heads, S, K], or fewer rows.
    values: as `keys`.
    bias: broadcastable to [B, 1, T, S], which hides keys.
    positions: [S], or [B, S], the positions of its keys in their sequence; None for a learned prefix that is visible at
      any distance.
  """

  keys: Array
  values: Array
  bias: Array
  positions: Array | None = None


def _has_layers(leaf: Any) -> bool:
  return isinstance(leaf, Apart)


class Stack(nn.Module):
  """An encoder or a decoder: position biases, all layers as one scan or two, and a last norm.

  It also owns the output layer, if there is one; `logits` applies it.

  Attributes:
    config: the stack's shape.
  """

  config: StackConfig

  @nn.compact
  def __call__(self, x: Array, around: Surroundings, *, fronts: Sequence[Front] = (),
               memory: tuple[Array, Array] | None = None, memory_front: Front | None = None,
               inputs: Array | None = None, added: Array | None = None, embedded: Array | None = None,
               scaling: Scaling | None = None, state: State | None = None,
               collect: bool = False) -> tuple[Array, Own | None]:
    """Runs the stack.

    Args:
      x: [B, T, D] embedded input.
      around: the other inputs of every layer. Its biases determine visibility; position biases are added here. Its
        positions are 0 to T-1 if not given.
      fronts: keys and values before each layer's own.
      memory: keys and values [L, B, H, S, K] of the memory, instead of `around.memory`.
      memory_front: keys and values before the memory's, without positions.
      inputs: [L, B, T, D], the input of each layer, instead of the previous layer's output.
      added: [L - 1, M, D], vectors for each layer except the first; `around.added_rows` assigns them to positions.
      embedded: [L, B, T, E], each layer's own embedding of the positions; with `inputs` it may be left out.
      scaling: factors on the inputs and outputs of dense layers.
      state: of the delta layers before the rows, as fronts are to layers with attention; None is an empty one.
      collect: also return what each layer hands to later positions.

    Returns:
      [B, T, D], and None or `Own`.
    """
    config = self.config
    around = dataclasses.replace(
      around, positions=jnp.arange(x.shape[1]) if around.positions is None else around.positions,
      front_biases=tuple((front.bias,) for front in fronts),
      front_positions=tuple(front.positions for front in fronts),
      memory_front_bias=None if memory_front is None else memory_front.bias,
      scale_rows=scaling and scaling.rows, memory_scale_rows=scaling and scaling.memory_rows)
    if not config.layer_biases:
      around = add_relative_biases(config, around, x.shape[1])
    around = add_linear_biases(config, around)

    x = drop(x, around.dropout, config.dropout_rate, site=config.layers, over=(2,))
    if added is not None:  # the first layer reads the prompt itself
      added = jnp.concatenate([jnp.zeros_like(added, shape=(1, *added.shape[1:])), added])
    scanned = Scanned(config.per_layer(), tuple((front.keys, front.values) for front in fronts), memory,
                      None if memory_front is None else (memory_front.keys, memory_front.values), inputs, added,
                      embedded, scaling.arrays if scaling else {}, state)
    x, own = self._layers(x, scanned, around, collect)
    if config.final_norm:
      x = norm(config, f'{self.name}_norm')(x)
    x = drop(x, around.dropout, config.dropout_rate, site=config.layers + 1, over=(2,))
    if config.outputs and self.is_initializing():
      read = jnp.zeros((config.embedding_width or config.width,), x.dtype)
      Dense(config.outputs, use_bias=config.output_bias, name='logits_dense')(read)
    return x, own

  def logits(self, x: Array) -> Array:
    """Returns the output layer's logits [B, T, V] of the stack's output [B, T, D]: float32, whatever `x` is."""
    return dense.apply(self.variables['params']['logits_dense'], x, jnp.float32)

  def _layers(self, x: Array, scanned: Scanned, around: Surroundings, collect: bool) -> tuple[Array, Own | None]:
    """Runs all layers; those that share keys and values after the others."""
    run = self._unrolled if self._is_apart() else self._scanned
    first, *others = parts_of(self.config)
    of_first = of_part(scanned, self.config, first)
    x, own = run(first, x, of_first, around, collect or bool(others))
    for part in others:
      around = dataclasses.replace(around, shared=last_stored(own, of_first.fronts, first.kinds))
      x, _ = run(part, x, of_part(scanned, self.config, part), around, False)
    return x, own if collect else None

  def _scanned(self, part: Part, x: Array, scanned: Scanned, around: Surroundings,
               collect: bool) -> tuple[Array, Own | None]:
    """Runs the layers of a part, or its groups of layers, as one scan over stacked weights."""
    config, size = self.config, len(part.group)

    def body(layer: nn.Module, x: Array, scanned: Scanned, around: Surroundings):
      x, own = layer(sharding.constrain(x, config.mesh, 'batch'), scanned, around)
      return x, own if collect else None

    body = nn.remat(body, policy=REMATERIALISE[config.rematerialise], prevent_cse=False)
    # Nothing is broadcast out of the loop. Flax's check of that traces the layer twice; random weights depend on it.
    scan = nn.scan(body, variable_axes={'params': 0, 'intermediates': 0}, split_rngs={'params': True},
                   in_axes=(0, nn.broadcast), length=len(part.kinds) // size,
                   check_constancy_invariants=self.is_initializing())
    if part.alike:
      return scan(self._layer()(config, part.kinds[0], name=part.name), x, scanned, around)
    x, own = scan(Group(config, part, self._layer(), name=part.name), x, by_group(scanned, part), around)
    return x, jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), own) if collect else None  # [groups, …]

  def _is_apart(self) -> bool:
    """Whether the layers' weights are arrays of their own, see `apart`."""
    found = self.variables.get('params', {}).get('layers', {})
    return any(map(_has_layers, trees.flatten(found).values()))

  def _unrolled(self, part: Part, x: Array, scanned: Scanned, around: Surroundings,
                collect: bool) -> tuple[Array, Own | None]:
    """Runs the layers of a part one after the other."""
    config, params, owns = self.config, self.variables['params'][part.name], []

    def run(params: Any, x: Array, scanned: Scanned, around: Surroundings, kind: Kind) -> tuple[Array, Any]:
      params = trees.map_named(lambda _, array: dequantised(array, config.dtype), params)
      x, own = Layer(config, kind, parent=None).apply({'params': params}, x, scanned, around)
      return x, own if collect else None

    run = jax.checkpoint(run, policy=REMATERIALISE[config.rematerialise], static_argnums=4)
    for number, kind in enumerate(part.kinds):
      group, place = divmod(number, len(part.group))
      own_params = params if part.alike else params[part.member(place)]
      at = lambda tree, group=group: jax.tree.map(lambda array: array[group], tree, is_leaf=_has_layers)
      own_scanned = at(scanned) if part.alike else of_layer(scanned, config, part.kinds, number)
      x, own = run(at(own_params), x, own_scanned, around, kind)
      owns.append(own)
    return x, collected(owns, part.kinds) if collect else None

  def _layer(self) -> Callable[..., nn.Module]:
    """Returns the layer, with its parameters gathered and dequantised when they are used."""
    if self.is_initializing():
      return Layer
    config = self.config

    def used(path: str, array: Array) -> Array:
      return dequantised(sharding.gather(path, array, config.mesh), config.dtype)

    return nn.map_variables(Layer, 'params', lambda found: {'params': trees.map_named(used, found['params'])})
