"""The transformer stack: one layer, scanned over all layers with stacked parameters.

Compile time does not grow with depth. What differs between families is in `StackConfig`, what differs between
layers is scanned with the weights.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from prompt_tuning.models.attention import Block, attend, hide
from prompt_tuning.models.positions import RelativeBias, Rotary, rotate
from prompt_tuning.types import Array

# What a step's backward pass needs of a layer when weights are frozen: the rest is cheap to make again.
_KEPT = ('attention_input', 'mlp_input', 'query', 'key', 'value', 'attention_weights', 'mlp_hidden')
REMATERIALISE: dict[str, Any] = {
  'none': jax.checkpoint_policies.save_only_these_names(*_KEPT),
  'full': jax.checkpoint_policies.nothing_saveable,
}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'gelu': lambda x: jax.nn.gelu(x, approximate=True), 'gelu_exact': lambda x: jax.nn.gelu(x, approximate=False),
  'silu': jax.nn.silu, 'relu': jax.nn.relu, 'linear': lambda x: x}


@dataclasses.dataclass(frozen=True)
class StackConfig:
  """The shape of a stack. What is not given is as T5 1.1 has it.

  Attributes:
    layers: L.
    width: D.
    heads: H.
    head_dim: K.
    mlp_dim: F.
    kv_heads: heads of keys and values, each read by a group of H / kv_heads; 0 is H.
    mlp_activations: one activation, or two whose outputs are multiplied (a gated MLP).
    causal: a position sees only itself and what stands before it.
    cross: each layer also attends to a memory (a decoder that reads an encoder).
    norm: 'rms', or 'layer' (LayerNorm with a bias).
    norm_epsilon: added to the variance.
    norm_offset: added to the scale of RMS norms (Gemma's is stored without its 1).
    post_norms: the outputs of attention and MLP are normed too (Gemma 2 and 3).
    query_norms: queries and keys are normed (Qwen 3, Gemma 3).
    bias: dense layers have biases (GPT-2).
    query_scale: factor on queries.
    attention_cap: attention logits are squashed to below it (Gemma 2); 0 leaves them.
    rotary: rotary positions of each layer; empty is none.
    windows: how far back each layer sees, itself included; 0 is without limit, empty is 0 for all.
    relative_buckets: buckets of T5's relative position bias; 0 is no such bias.
    relative_max_distance: distance at which the last bucket starts.
    layer_biases: each layer has position biases of its own (umT5); else all share one.
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
  kv_heads: int = 0
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  causal: bool = False
  cross: bool = False
  norm: str = 'rms'
  norm_epsilon: float = 1e-6
  norm_offset: float = 0.0
  post_norms: bool = False
  query_norms: bool = False
  bias: bool = False
  query_scale: float = 1.0
  attention_cap: float = 0.0
  rotary: tuple[Rotary, ...] = ()
  windows: tuple[int, ...] = ()
  relative_buckets: int = 0
  relative_max_distance: int = 128
  layer_biases: bool = False
  outputs: int = 0
  output_scale: float = 1.0
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  rematerialise: str = 'none'

  def per_layer(self) -> dict[str, Array]:
    """Returns what differs between layers beside the weights; arrays with a leading [L]."""
    found: dict[str, Array] = {'number': jnp.arange(self.layers)}
    if self.rotary:
      found['frequencies'] = jnp.stack([rotary.frequencies(self.head_dim) for rotary in self.rotary])
    if any(self.windows):
      found['window'] = jnp.array([window or 1 << 30 for window in self.windows], jnp.int32)
    return found


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Surroundings:
  """What every layer of a stack reads beside its input.

  Attributes:
    biases: each broadcastable to [B, H, T, T], for a layer's own keys.
    front_biases: for each front, biases broadcastable to [B, H, T, S].
    positions: [T] or [B, T], where the input stands in its sequence.
    front_positions: of each front, or None.
    memory: [B, T, D], an encoder's output; None where `memory_blocks` are scanned.
    memory_bias: broadcastable to [B, 1, S, T].
    memory_front_bias: broadcastable to [B, 1, S, P], for what stands in front of the memory.
    prompt_memory: [B, P, D], or [1, P, D] for all: an encoder's output of a prompt that was run by itself.
    prompt_memory_bias: broadcastable to [B, 1, S, P].
    dropout: [B] random keys, one for each row; None for no dropout.
  """

  biases: tuple[Array, ...]
  front_biases: tuple[tuple[Array, ...], ...] = ()
  positions: Array | None = None
  front_positions: tuple[Array | None, ...] = ()
  memory: Array | None = None
  memory_bias: Array | None = None
  memory_front_bias: Array | None = None
  prompt_memory: Array | None = None
  prompt_memory_bias: Array | None = None
  dropout: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scanned:
  """What differs from layer to layer beside the weights; every array has a leading [L].

  Attributes:
    layer: of `StackConfig.per_layer`.
    fronts: keys and values in front of the layer's own.
    memory: keys and values of the memory, where they were computed before.
    memory_front: keys and values in front of the memory's.
    inputs: [L, B, T, D] instead of what the layer before has given.
  """

  layer: dict[str, Array]
  fronts: tuple[tuple[Array, Array], ...] = ()
  memory: tuple[Array, Array] | None = None
  memory_front: tuple[Array, Array] | None = None
  inputs: Array | None = None


class RMSNorm(nn.Module):
  """x / sqrt(mean(x²) + epsilon) · (scale + offset) (Zhang and Sennrich 2019), computed in float32."""

  dtype: Any = jnp.float32
  epsilon: float = 1e-6
  offset: float = 0.0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.constant(1.0 - self.offset), (x.shape[-1],))
    x = x.astype(jnp.float32)
    scaled = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon) * (scale + self.offset)
    return scaled.astype(self.dtype)


def norm(config: StackConfig, name: str) -> nn.Module:
  """Returns a norm of the stack's kind."""
  if config.norm == 'layer':
    return nn.LayerNorm(config.norm_epsilon, dtype=config.dtype, name=name)
  return RMSNorm(config.dtype, config.norm_epsilon, config.norm_offset, name=name)


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
  """Multi-head attention: `[D, H·K]` projections of query, key and value, `[H·K, D]` back."""

  config: StackConfig

  def setup(self) -> None:
    config = self.config
    initialise = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
    dense = lambda features, init: nn.Dense(features, use_bias=config.bias, dtype=config.dtype, kernel_init=init)
    # T5 folds 1/sqrt(K) into the initialiser of the query, and does not scale logits.
    small = nn.initializers.variance_scaling(1.0 / config.head_dim, 'fan_in', 'normal')
    read = (config.kv_heads or config.heads) * config.head_dim
    self.query = dense(config.heads * config.head_dim, small if config.query_scale == 1.0 else initialise)
    self.key = dense(read, initialise)
    self.value = dense(read, initialise)
    self.out = dense(config.width, initialise)
    if config.query_norms:
      self.query_norm = RMSNorm(config.dtype, config.norm_epsilon, config.norm_offset)
      self.key_norm = RMSNorm(config.dtype, config.norm_epsilon, config.norm_offset)

  def keys_values(self, x: Array, angles: Array | None = None) -> tuple[Array, Array]:
    """Returns keys and values [B, kv_heads, T, K] of `x` [B, T, D]; keys are turned by `angles` [B or 1, T, K/2]."""
    keys = self._split(self.key(x))
    if self.config.query_norms:
      keys = self.key_norm(keys)
    if angles is not None:
      keys = rotate(keys, angles)
    return checkpoint_name(keys, 'key'), checkpoint_name(self._split(self.value(x)), 'value')

  def __call__(self, x: Array, blocks: Sequence[Block], dropout: Array | None, *, site: int,
               angles: Array | None = None) -> Array:
    """Attends from `x` [B, T, D] to the blocks; returns [B, T, D]. `site` is of `drop`."""
    config = self.config
    query = self._split(self.query(x))
    if config.query_norms:
      query = self.query_norm(query)
    if config.query_scale != 1.0:
      query = query * config.query_scale
    if angles is not None:
      query = rotate(query, angles)
    query = checkpoint_name(query, 'query')
    factors = None
    if dropout is not None and config.dropout_rate:
      count = sum(block.keys.shape[2] for block in blocks)
      ones = jnp.ones((x.shape[0], config.heads, 1, count), query.dtype)
      factors = drop(ones, dropout, config.dropout_rate, site=site, over=(1, 3))
    heads = attend(query, blocks, dropout=factors, cap=config.attention_cap)
    return self.out(heads.swapaxes(1, 2).reshape(*x.shape[:2], -1))  # [B, H, T, K] -> [B, T, H·K]

  def _split(self, x: Array) -> Array:
    heads = x.reshape(*x.shape[:2], -1, self.config.head_dim)
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
      features, use_bias=self.config.bias, dtype=self.config.dtype, kernel_init=initialise, name=name)
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
    """Returns the layer's output [B, T, D], and its own keys and values [B, kv_heads, T, K]."""
    config, layer = self.config, scanned.layer
    keys = around.dropout
    if keys is not None:
      keys = jax.vmap(lambda key: jax.random.fold_in(key, layer['number']))(keys)
    site = itertools.count()

    def residual(x: Array, y: Array, name: str) -> Array:
      if config.post_norms:
        y = norm(config, f'post_{name}_layer_norm')(y)
      return x + drop(y, keys, config.dropout_rate, site=next(site), over=(2,))

    if config.layer_biases:
      around = add_relative_biases(config, around, x.shape[1])
    name = self_attention_name(config)
    x = checkpoint_name(x if scanned.inputs is None else scanned.inputs, 'attention_input')
    attention = Attention(config, name=name)
    normed = norm(config, f'pre_{name}_layer_norm')(x)
    angles = turns(layer, around.positions)
    own = attention.keys_values(normed, angles)
    blocks = [Block(*front, (*biases, *self._window(layer, around.positions, positions)))
              for front, biases, positions in zip(scanned.fronts, around.front_biases, around.front_positions,
                                                  strict=True)]
    blocks.append(Block(*own, (*around.biases, *self._window(layer, around.positions, around.positions))))
    x = residual(x, attention(normed, blocks, keys, site=next(site), angles=angles), name)
    if config.cross:
      x = checkpoint_name(x, 'attention_input')
      attention = Attention(config, name='encoder_decoder_attention')
      memory = scanned.memory if around.memory is None else attention.keys_values(around.memory)
      normed = norm(config, 'pre_cross_attention_layer_norm')(x)
      blocks = [Block(*memory, (around.memory_bias,))]
      if scanned.memory_front is not None:
        blocks.insert(0, Block(*scanned.memory_front, (around.memory_front_bias,)))
      if around.prompt_memory is not None:
        blocks.insert(0, Block(*attention.keys_values(around.prompt_memory), (around.prompt_memory_bias,)))
      x = residual(x, attention(normed, blocks, keys, site=next(site)), 'cross_attention')
    x = checkpoint_name(x, 'mlp_input')
    normed = norm(config, 'pre_mlp_layer_norm')(x)
    return residual(x, MLP(config, name='mlp')(normed, keys, site=next(site)), 'mlp'), own

  def _window(self, layer: dict[str, Array], queries: Array | None, keys: Array | None) -> tuple[Array, ...]:
    """Returns the bias that hides keys too far back; a front without positions is seen from everywhere."""
    if 'window' not in layer or keys is None:
      return ()
    distance = jnp.atleast_2d(queries)[:, :, None] - jnp.atleast_2d(keys)[:, None, :]
    return (hide(distance < layer['window'])[:, None],)


def add_relative_biases(config: StackConfig, around: Surroundings, length: int) -> Surroundings:
  """Returns the surroundings of a stack or layer of T positions with its learned biases for their distances."""
  if not config.relative_buckets:
    return around
  relative = RelativeBias(config.heads, config.relative_buckets, config.relative_max_distance,
                          bidirectional=not config.causal, name='relpos_bias')
  index = jnp.arange(length)
  return dataclasses.replace(
    around, biases=(*around.biases, relative(index, index)),
    front_biases=tuple((*biases, relative(around.positions, positions)) for biases, positions in zip(
      around.front_biases, around.front_positions, strict=True)))


def self_attention_name(config: StackConfig) -> str:
  """Returns T5X's name of a layer's attention to its own stack."""
  return 'self_attention' if config.causal else 'attention'


def turns(layer: Mapping[str, Array], positions: Array | None) -> Array | None:
  """Returns the rotary angles [B or 1, T, K/2] of positions [T] or [B, T] in a layer; None where it has none."""
  if 'frequencies' not in layer:
    return None
  return jnp.atleast_2d(positions)[..., None] * layer['frequencies']


class Stack(nn.Module):
  """An encoder or a decoder: position biases, all layers as one scan, a last norm, and maybe an output layer.

  Attributes:
    config: the stack's shape.
  """

  config: StackConfig

  @nn.compact
  def __call__(self, x: Array, around: Surroundings, *, fronts: Sequence[Front] = (),
               memory: tuple[Array, Array] | None = None, memory_front: Front | None = None,
               inputs: Array | None = None, collect: bool = False) -> tuple[Array, tuple[Array, Array] | None]:
    """Runs the stack.

    Args:
      x: [B, T, D] embedded input.
      around: what every layer reads beside; its biases say who sees whom, those of positions are added here. Its
        positions are 0 to T-1 where they are not given.
      fronts: keys and values in front of each layer's own.
      memory: keys and values [L, B, H, S, K] of the memory, instead of `around.memory`.
      memory_front: keys and values in front of the memory's, which have no positions.
      inputs: [L, B, T, D], what each layer reads instead of what the one before has given.
      collect: also return each layer's own keys and values.

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
      x, own = layer(x, scanned, around)
      return x, own if collect else None

    body = nn.remat(body, policy=REMATERIALISE[config.rematerialise], prevent_cse=False)
    scan = nn.scan(body, variable_axes={'params': 0}, split_rngs={'params': True},
                   in_axes=(0, nn.broadcast), length=config.layers)
    x = drop(x, around.dropout, config.dropout_rate, site=config.layers, over=(2,))
    scanned = Scanned(config.per_layer(), tuple((front.keys, front.values) for front in fronts), memory,
                      None if memory_front is None else (memory_front.keys, memory_front.values), inputs)
    x, own = scan(Layer(config, name='layers'), x, scanned, around)
    x = norm(config, f'{self.name}_norm')(x)
    x = drop(x, around.dropout, config.dropout_rate, site=config.layers + 1, over=(2,))
    if config.output_scale != 1.0:
      x = x * config.output_scale
    if config.outputs:
      x = nn.Dense(config.outputs, use_bias=False, dtype=config.dtype, name='logits_dense')(x)
    return x, own
