"""The transformer stack: one layer, scanned over all layers with stacked parameters.

Compile time does not grow with depth. What differs between families is in `StackConfig`, what differs between
layers is scanned with the weights.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from prompt_tuning.models.attention import Block, attend
from prompt_tuning.models.positions import RelativeBias
from prompt_tuning.types import Array

# What a step's backward pass needs of a layer when weights are frozen: the rest is cheap to make again.
_KEPT = ('attention_input', 'mlp_input', 'query', 'key', 'value', 'attention_weights', 'mlp_hidden')
REMATERIALISE: dict[str, Any] = {
  'none': jax.checkpoint_policies.save_only_these_names(*_KEPT),
  'full': jax.checkpoint_policies.nothing_saveable,
}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'gelu': lambda x: jax.nn.gelu(x, approximate=True), 'relu': jax.nn.relu, 'linear': lambda x: x}


@dataclasses.dataclass(frozen=True)
class StackConfig:
  """The shape of a stack.

  Attributes:
    layers: L.
    width: D.
    heads: H.
    head_dim: K.
    mlp_dim: F.
    mlp_activations: one activation, or two whose outputs are multiplied (a gated MLP).
    causal: a position sees only what stands before it (decides how position biases are bucketed).
    cross: each layer also attends to a memory (a decoder that reads an encoder).
    relative_buckets: buckets of T5's relative position bias; 0 is no such bias.
    relative_max_distance: distance at which the last bucket starts.
    outputs: V, width of an output layer behind the last norm; 0 is none.
    output_scale: factor on what the last norm gives.
    dropout_rate: share of activations dropped in training.
    dtype: type of the activations; norms and softmax are computed in float32.
    rematerialise: 'none' keeps what the backward pass needs, 'full' keeps only each layer's input.
  """

  layers: int
  width: int
  heads: int
  head_dim: int
  mlp_dim: int
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  causal: bool = False
  cross: bool = False
  relative_buckets: int = 0
  relative_max_distance: int = 128
  outputs: int = 0
  output_scale: float = 1.0
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  rematerialise: str = 'none'


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Surroundings:
  """What every layer of a stack reads beside its input.

  Attributes:
    biases: each broadcastable to [B, H, T, T], for a layer's own keys.
    front_biases: each broadcastable to [B, H, T, S], for the keys in front.
    memory: [B, T, D], an encoder's output; None where `memory_blocks` are scanned.
    memory_bias: broadcastable to [B, 1, S, T].
    dropout: [B] random keys, one for each row; None for no dropout.
  """

  biases: tuple[Array, ...]
  front_biases: tuple[Array, ...] = ()
  memory: Array | None = None
  memory_bias: Array | None = None
  dropout: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scanned:
  """What differs from layer to layer beside the weights; every array has a leading [L].

  Attributes:
    layer: the layer's number.
    front: keys and values in front of the layer's own: a cache while decoding.
    memory: keys and values of the memory, where they were computed before.
  """

  layer: Array
  front: tuple[Array, Array] | None = None
  memory: tuple[Array, Array] | None = None


class RMSNorm(nn.Module):
  """x / sqrt(mean(x²) + 1e-6) · scale (Zhang and Sennrich 2019), computed in float32."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    x = x.astype(jnp.float32)
    return (x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale).astype(self.dtype)


def drop(x: Array, keys: Array | None, rate: float, *, site: int, over: Sequence[int]) -> Array:
  """Zeroes a share of `x` and scales the rest up; the mask of a row depends on the row's own key only.

  Args:
    x: [B, ...].
    keys: [B] random keys, or None for no dropout.
    rate: the share that is dropped.
    site: tells apart the places of one layer that use the same keys.
    over: the axes, but for the first, along which the mask varies; it is shared along the others, as in T5.
  """
  if keys is None or rate == 0.0:
    return x
  shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)][1:]
  keys = jax.vmap(lambda key: jax.random.fold_in(key, site))(keys)
  kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
  return x * (kept / (1 - rate)).astype(x.dtype)


class Attention(nn.Module):
  """Multi-head attention without biases: `[D, H·K]` projections of query, key and value, `[H·K, D]` back."""

  config: StackConfig

  def setup(self) -> None:
    joined = self.config.heads * self.config.head_dim
    initialise = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
    dense = lambda features, init: nn.Dense(features, use_bias=False, dtype=self.config.dtype, kernel_init=init)
    # T5 folds 1/sqrt(K) into the initialiser of the query, and does not scale logits.
    self.query = dense(joined, nn.initializers.variance_scaling(1.0 / self.config.head_dim, 'fan_in', 'normal'))
    self.key = dense(joined, initialise)
    self.value = dense(joined, initialise)
    self.out = dense(self.config.width, initialise)

  def keys_values(self, x: Array) -> tuple[Array, Array]:
    """Returns keys and values [B, H, T, K] of `x` [B, T, D]."""
    keys = checkpoint_name(self._split(self.key(x)), 'key')
    values = checkpoint_name(self._split(self.value(x)), 'value')
    return keys, values

  def __call__(self, x: Array, blocks: Sequence[Block], dropout: Array | None, *, site: int) -> Array:
    """Attends from `x` [B, T, D] to the blocks; returns [B, T, D]. `site` is of `drop`."""
    query = checkpoint_name(self._split(self.query(x)), 'query')
    factors = None
    if dropout is not None and self.config.dropout_rate:
      count = sum(block.keys.shape[2] for block in blocks)
      ones = jnp.ones((x.shape[0], self.config.heads, 1, count), query.dtype)
      factors = drop(ones, dropout, self.config.dropout_rate, site=site, over=(1, 3))
    heads = attend(query, blocks, dropout=factors)
    return self.out(heads.swapaxes(1, 2).reshape(*x.shape[:2], -1))  # [B, H, T, K] -> [B, T, H·K]

  def _split(self, x: Array) -> Array:
    heads = x.reshape(*x.shape[:2], self.config.heads, self.config.head_dim)
    return heads.swapaxes(1, 2)  # [B, T, H, K] -> [B, H, T, K]


class MLP(nn.Module):
  """activation(x·wi)·wo, or the product of two such inputs (Shazeer 2020) where two activations are given."""

  config: StackConfig

  @nn.compact
  def __call__(self, x: Array, dropout: Array | None, *, site: int) -> Array:
    activations = self.config.mlp_activations
    names = ['wi'] if len(activations) == 1 else [f'wi_{i}' for i in range(len(activations))]
    initialise = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
    dense = lambda features, name: nn.Dense(
      features, use_bias=False, dtype=self.config.dtype, kernel_init=initialise, name=name)
    hidden = 1
    for name, activation in zip(names, activations, strict=True):
      products = checkpoint_name(dense(self.config.mlp_dim, name)(x), 'mlp_hidden')
      hidden = hidden * ACTIVATIONS[activation](products)
    hidden = drop(hidden, dropout, self.config.dropout_rate, site=site, over=(2,))
    return dense(self.config.width, 'wo')(hidden)


class Layer(nn.Module):
  """Norm, attention, (norm, attention to the memory,) norm, MLP; each adds to the residual stream."""

  config: StackConfig

  @nn.compact
  def __call__(self, x: Array, scanned: Scanned, around: Surroundings) -> tuple[Array, tuple[Array, Array]]:
    """Returns the layer's output [B, T, D], and its own keys and values [B, H, T, K]."""
    config = self.config
    keys = around.dropout
    if keys is not None:
      keys = jax.vmap(lambda key: jax.random.fold_in(key, scanned.layer))(keys)
    site = itertools.count()
    residual = lambda x, y: x + drop(y, keys, config.dropout_rate, site=next(site), over=(2,))
    name = 'self_attention' if config.cross else 'attention'
    x = checkpoint_name(x, 'attention_input')
    attention = Attention(config, name=name)
    normed = RMSNorm(config.dtype, name=f'pre_{name}_layer_norm')(x)
    own = attention.keys_values(normed)
    blocks = [Block(*own, around.biases)]
    if scanned.front is not None:
      blocks.insert(0, Block(*scanned.front, around.front_biases))
    x = residual(x, attention(normed, blocks, keys, site=next(site)))
    if config.cross:
      x = checkpoint_name(x, 'attention_input')
      attention = Attention(config, name='encoder_decoder_attention')
      memory = scanned.memory if around.memory is None else attention.keys_values(around.memory)
      normed = RMSNorm(config.dtype, name='pre_cross_attention_layer_norm')(x)
      x = residual(x, attention(normed, [Block(*memory, (around.memory_bias,))], keys, site=next(site)))
    x = checkpoint_name(x, 'mlp_input')
    normed = RMSNorm(config.dtype, name='pre_mlp_layer_norm')(x)
    return residual(x, MLP(config, name='mlp')(normed, keys, site=next(site))), own


class Stack(nn.Module):
  """An encoder or a decoder: position biases, all layers as one scan, a last norm, and maybe an output layer.

  Attributes:
    config: the stack's shape.
  """

  config: StackConfig

  @nn.compact
  def __call__(self, x: Array, around: Surroundings, *, index: Array | None = None,
               front: tuple[Array, Array] | None = None, memory: tuple[Array, Array] | None = None,
               collect: bool = False) -> tuple[Array, tuple[Array, Array] | None]:
    """Runs the stack.

    Args:
      x: [B, T, D] embedded input.
      around: what every layer reads beside; its biases say who sees whom, those of positions are added here.
      index: [T] places of the input in its sequence, where it does not start it.
      front: keys and values [L, B, H, S, K] in front of each layer's own, at places 0 to S-1.
      memory: keys and values [L, B, H, S, K] of the memory, instead of `around.memory`.
      collect: also return each layer's own keys and values.

    Returns:
      [B, T, D] or [B, T, V], and [L, B, H, T, K] twice or None.
    """
    config = self.config
    if config.relative_buckets:
      index = jnp.arange(x.shape[1]) if index is None else index
      position_bias = RelativeBias(config.heads, config.relative_buckets, config.relative_max_distance,
                                   bidirectional=not config.causal, name='relpos_bias')
      around = dataclasses.replace(around, biases=(*around.biases, position_bias(index, index)))
      if front is not None:
        front_bias = position_bias(index, jnp.arange(front[0].shape[3]))
        around = dataclasses.replace(around, front_biases=(*around.front_biases, front_bias))

    def body(layer: nn.Module, x: Array, scanned: Scanned, around: Surroundings):
      x, own = layer(x, scanned, around)
      return x, own if collect else None

    body = nn.remat(body, policy=REMATERIALISE[config.rematerialise], prevent_cse=False)
    scan = nn.scan(body, variable_axes={'params': 0}, split_rngs={'params': True},
                   in_axes=(0, nn.broadcast), length=config.layers)
    x = drop(x, around.dropout, config.dropout_rate, site=config.layers, over=(2,))
    x, own = scan(Layer(config, name='layers'), x, Scanned(jnp.arange(config.layers), front, memory), around)
    x = RMSNorm(config.dtype, name=f'{self.name}_norm')(x)
    x = drop(x, around.dropout, config.dropout_rate, site=config.layers + 1, over=(2,))
    if config.output_scale != 1.0:
      x = x * config.output_scale
    if config.outputs:
      x = nn.Dense(config.outputs, use_bias=False, dtype=config.dtype, name='logits_dense')(x)
    return x, own
