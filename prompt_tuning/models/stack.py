"""The transformer stack: one layer, scanned over all layers with stacked parameters.

Compile time does not grow with depth. What differs between families is in `StackConfig`, what differs between
layers is scanned with the weights.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning import trees
from prompt_tuning.devices import sharding
from prompt_tuning.models.layers import Layer, Scanned, Surroundings, add_relative_biases, drop, norm
from prompt_tuning.models.quantised import dequantised
from prompt_tuning.models.stack_config import REMATERIALISE, StackConfig
from prompt_tuning.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Front:
  """Keys and values in front of every layer's own: a prefix, a prompt or text that was run before, a cache.

  A front with fewer rows than the input is shared, see `attention.Block`.

  Attributes:
    keys: [L, B, kv_heads, S, K], or fewer rows.
    values: as `keys`.
    bias: broadcastable to [B, 1, T, S]: who sees it.
    positions: [S], or [B, S], where its keys stand in their sequence; None is a learned prefix, which is seen from
      everywhere.
  """

  keys: Array
  values: Array
  bias: Array
  positions: Array | None = None


class Stack(nn.Module):
  """An encoder or a decoder: position biases, all layers as one scan, a last norm, and maybe an output layer.

  Attributes:
    config: the stack's shape.
  """

  config: StackConfig

  @nn.compact
  def __call__(self, x: Array, around: Surroundings, *, fronts: Sequence[Front] = (),
               memory: tuple[Array, Array] | None = None, memory_front: Front | None = None,
               inputs: Array | None = None, added: Array | None = None,
               collect: bool = False, hidden: bool = False) -> tuple[Array, tuple[Array, Array] | None]:
    """Runs the stack.

    Args:
      x: [B, T, D] embedded input.
      around: what every layer reads beside; its biases say who sees whom, those of positions are added here. Its
        positions are 0 to T-1 where they are not given.
      fronts: keys and values in front of each layer's own.
      memory: keys and values [L, B, H, S, K] of the memory, instead of `around.memory`.
      memory_front: keys and values in front of the memory's, which have no positions.
      inputs: [L, B, T, D], what each layer reads instead of what the one before has given.
      added: [L - 1, M, D], vectors for each layer but the first, which `around.added_rows` gives to positions.
      collect: also return each layer's own keys and values.
      hidden: return the last norm's output, not what an output layer makes of it.

    Returns:
      [B, T, D] or [B, T, V], and [L, B, kv_heads, T, K] twice or None.
    """
    config = self.config
    around = dataclasses.replace(
      around, positions=jnp.arange(x.shape[1]) if around.positions is None else around.positions,
      front_biases=tuple((front.bias,) for front in fronts),
      front_positions=tuple(front.positions for front in fronts),
      memory_front_bias=None if memory_front is None else memory_front.bias)
    if not config.layer_biases:
      around = add_relative_biases(config, around, x.shape[1])

    def body(layer: nn.Module, x: Array, scanned: Scanned, around: Surroundings):
      x, own = layer(sharding.constrain(x, config.mesh, 'batch'), scanned, around)
      return x, own if collect else None

    body = nn.remat(body, policy=REMATERIALISE[config.rematerialise], prevent_cse=False)
    # Nothing is broadcast out of the loop. Flax's check of that traces the layer twice; random weights depend on it.
    scan = nn.scan(body, variable_axes={'params': 0, 'intermediates': 0}, split_rngs={'params': True},
                   in_axes=(0, nn.broadcast), length=config.layers,
                   check_constancy_invariants=self.is_initializing())
    x = drop(x, around.dropout, config.dropout_rate, site=config.layers, over=(2,))
    if added is not None:  # the first layer reads the prompt itself
      added = jnp.concatenate([jnp.zeros_like(added, shape=(1, *added.shape[1:])), added])
    scanned = Scanned(config.per_layer(), tuple((front.keys, front.values) for front in fronts), memory,
                      None if memory_front is None else (memory_front.keys, memory_front.values), inputs, added)
    x, own = scan(self._layer()(config, name='layers'), x, scanned, around)
    x = norm(config, f'{self.name}_norm')(x)
    x = drop(x, around.dropout, config.dropout_rate, site=config.layers + 1, over=(2,))
    if hidden:
      return x, own
    if config.output_scale != 1.0:
      x = x * config.output_scale
    if config.outputs:
      x = nn.Dense(config.outputs, use_bias=config.output_bias, dtype=config.dtype, name='logits_dense')(x)
    return x, own

  def _layer(self) -> Callable[..., nn.Module]:
    """Returns the layer, which reads its parameters where they are used: gathered, and not as eight bits."""
    if self.is_initializing():
      return Layer
    config = self.config

    def used(path: str, array: Array) -> Array:
      return dequantised(sharding.gather(path, array, config.mesh), config.dtype)

    return nn.map_variables(Layer, 'params', lambda found: {'params': trees.map_named(used, found['params'])})
