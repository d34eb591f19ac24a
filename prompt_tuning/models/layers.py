"""One layer of the stack, and its inputs."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from prompt_tuning.models import kernels
from prompt_tuning.models.attention import Block, hide
from prompt_tuning.models.dense import Dense
from prompt_tuning.models.positions import RelativeBias, rotate
from prompt_tuning.models.scaling import picked
from prompt_tuning.models.stack_config import StackConfig, mlp_names, self_attention_name
from prompt_tuning.types import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'gelu': lambda x: jax.nn.gelu(x, approximate=True), 'gelu_exact': lambda x: jax.nn.gelu(x, approximate=False),
  'silu': jax.nn.silu, 'relu': jax.nn.relu, 'linear': lambda x: x}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Surroundings:
  """The inputs that every layer of a stack reads in addition to the hidden states.

  Attributes:
    biases: each broadcastable to [B, H, T, T], for a layer's own keys.
    segments: [B, T], if only they and the order of a causal stack determine the biases; else None.
    front_biases: for each front, biases broadcastable to [B, H, T, S].
    positions: [T] or [B, T], the positions of the input in its sequence.
    front_positions: of each front, or None.
    memory: [B, T, D], an encoder's output; None if its keys and values are scanned.
    memory_bias: broadcastable to [B, 1, S, T].
    memory_segments: [B, S] and [B, T], if only they determine that bias; else None.
    memory_front_bias: broadcastable to [B, 1, S, P], for the KV prefix of the memory.
    prompt_memory: [B, P, D], or [1, P, D] for all: the encoder's output for a prompt that was run separately.
    prompt_memory_bias: broadcastable to [B, 1, S, P].
    added_rows: [B, T], the index of the layer's `added` vector for each position; -1 means none.
    scale_rows: as `rows` of `Scaling`.
    memory_scale_rows: as `memory_rows` of `Scaling`.
    dropout: [B] random keys, one for each row; None means no dropout.
  """

  biases: tuple[Array, ...]
  segments: Array | None = None
  front_biases: tuple[tuple[Array, ...], ...] = ()
  positions: Array | None = None
  front_positions: tuple[Array | None, ...] = ()
  memory: Array | None = None
  memory_bias: Array | None = None
  memory_segments: tuple[Array, Array] | None = None
  memory_front_bias: Array | None = None
  prompt_memory: Array | None = None
  prompt_memory_bias: Array | None = None
  added_rows: Array | None = None
  scale_rows: Array | None = None
  memory_scale_rows: Array | None = None
  dropout: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scanned:
  """The inputs that differ between layers, apart from the weights; every array has a leading [L].

  Attributes:
    layer: of `StackConfig.per_layer`.
    fronts: keys and values before the layer's own.
    memory: keys and values of the memory, if they were computed before.
    memory_front: keys and values before the memory's.
    inputs: [L, B, T, D], read instead of the previous layer's output.
    added: [L, M, D], vectors added to the previous layer's output at some positions.
    scales: [L, N, width] of some dense layers, see `Scaling`.
  """

  layer: dict[str, Array]
  fronts: tuple[tuple[Array, Array], ...] = ()
  memory: tuple[Array, Array] | None = None
  memory_front: tuple[Array, Array] | None = None
  inputs: Array | None = None
  added: Array | None = None
  scales: Mapping[str, Array] = dataclasses.field(default_factory=dict)


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
  """Zeroes a share of `x` and scales up the rest; a row's mask depends only on the row's own key.

  Args:
    x: [B, ...].
    keys: [B] random keys, or None for no dropout.
    rate: the share to drop.
    site: distinguishes the places in a layer that use the same keys.
    over: the axes, except the first, along which the mask varies; it is shared along the others, as in T5.
  """
  if keys is None or rate == 0.0:
    return x
  shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)][1:]
  keys = jax.vmap(lambda key: jax.random.fold_in(key, site))(keys)
  kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
  return x * (kept / (1 - rate)).astype(x.dtype)


def gather(vectors: Array, rows: Array, dtype: Any) -> Array:
  """Returns [B, T, D], the vectors [M, D] at the indices `rows` [B, T]; zeros for -1."""
  return jnp.where((rows >= 0)[..., None], vectors.astype(dtype)[jnp.maximum(rows, 0)], 0)


class Attention(nn.Module):
  """Multi-head attention: `[D, H·K]` projections of query, key and value, `[H·K, D]` back."""

  config: StackConfig

  def setup(self) -> None:
    config = self.config
    initialise = config.initialiser()
    dense = lambda name, features, init: Dense(
      features, use_bias=config.bias or name in config.projection_biases, dtype=config.dtype, kernel_init=init)
    # T5 folds 1/sqrt(K) into the query's initialiser and does not scale logits.
    small = config.initialiser(scale=1.0 / config.head_dim)
    read = (config.kv_heads or config.heads) * config.head_dim
    self.query = dense('query', config.heads * config.head_dim, small if config.query_scale == 1.0 else initialise)
    self.key = dense('key', read, initialise)
    self.value = dense('value', read, initialise)
    self.out = dense('out', config.width, config.initialiser(writes=True))
    if config.query_norms:
      self.query_norm = RMSNorm(config.dtype, config.norm_epsilon, config.norm_offset)
      self.key_norm = RMSNorm(config.dtype, config.norm_epsilon, config.norm_offset)

  def keys_values(self, x: Array, angles: Array | None = None, *,
                  scales: Mapping[str, Array] | None = None) -> tuple[Array, Array]:
    """Returns keys and values [B, kv_heads, T, K] of `x` [B, T, D]; keys are rotated by `angles` [B or 1, T, K/2]."""
    keys = self._split(self.key(x, scales))
    if self.config.query_norms:
      keys = self.key_norm(keys)
    if angles is not None:
      keys = rotate(keys, angles)
    return checkpoint_name(keys, 'key'), checkpoint_name(self._split(self.value(x, scales)), 'value')

  def __call__(self, x: Array, blocks: Sequence[Block], dropout: Array | None, *, site: int,
               angles: Array | None = None, scales: Mapping[str, Array] | None = None) -> Array:
    """Returns the attention of `x` [B, T, D] to the blocks, [B, T, D]. `site` is as in `drop`."""
    config = self.config
    query = self._split(self.query(x, scales))
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
    wanted = self.is_mutable_collection('intermediates')
    heads, weights = kernels.attend(query, blocks, asked=config.attention, dropout=factors, cap=config.attention_cap,
                                    weights=wanted, mesh=config.mesh)
    if wanted:
      self.sow('intermediates', 'weights', weights)
    return self.out(heads.swapaxes(1, 2).reshape(*x.shape[:2], -1), scales)  # [B, H, T, K] -> [B, T, H·K]

  def _split(self, x: Array) -> Array:
    heads = x.reshape(*x.shape[:2], -1, self.config.head_dim)
    return heads.swapaxes(1, 2)  # [B, T, H, K] -> [B, H, T, K]


class MLP(nn.Module):
  """activation(x·wi)·wo; with two activations, the product of two such inputs (Shazeer 2020)."""

  config: StackConfig

  @nn.compact
  def __call__(self, x: Array, dropout: Array | None, *, site: int, scales: Mapping[str, Array] | None = None) -> Array:
    dense = lambda features, name: Dense(
      features, use_bias=self.config.bias, dtype=self.config.dtype, name=name,
      kernel_init=self.config.initialiser(shape='truncated_normal', writes=name == 'wo'))
    hidden = 1
    for name, activation in zip(mlp_names(self.config), self.config.mlp_activations, strict=True):
      products = checkpoint_name(dense(self.config.mlp_dim, name)(x, scales), 'mlp_hidden')
      hidden = hidden * ACTIVATIONS[activation](products)
    hidden = drop(hidden, dropout, self.config.dropout_rate, site=site, over=(2,))
    return dense(self.config.width, 'wo')(hidden, scales)


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
    name, scales = self_attention_name(config), picked(scanned.scales, around.scale_rows)
    if scanned.added is not None:
      x = x + gather(scanned.added, around.added_rows, x.dtype)
    x = checkpoint_name(x if scanned.inputs is None else scanned.inputs, 'attention_input')
    attention = Attention(config, name=name)
    normed = norm(config, f'pre_{name}_layer_norm')(x)
    angles = turns(layer, around.positions)
    own = attention.keys_values(normed, angles, scales=scales)
    blocks = [Block(*front, (*biases, *self._window(layer, around.positions, positions)))
              for front, biases, positions in zip(scanned.fronts, around.front_biases, around.front_positions,
                                                  strict=True)]
    window = self._window(layer, around.positions, around.positions)
    alone = around.segments is not None and not window and not config.relative_buckets
    blocks.append(Block(*own, (*around.biases, *window), (around.segments,) * 2 if alone else None, config.causal))
    x = residual(x, attention(normed, blocks, keys, site=next(site), angles=angles, scales=scales), name)
    if config.cross:
      x = checkpoint_name(x, 'attention_input')
      attention = Attention(config, name='encoder_decoder_attention')
      read = lambda vectors, rows: attention.keys_values(vectors, scales=picked(scanned.scales, rows))
      rows = around.memory_scale_rows
      memory = scanned.memory if around.memory is None else read(around.memory, rows)
      normed = norm(config, 'pre_cross_attention_layer_norm')(x)
      blocks = [Block(*memory, (around.memory_bias,), around.memory_segments)]
      if scanned.memory_front is not None:
        blocks.insert(0, Block(*scanned.memory_front, (around.memory_front_bias,)))
      if around.prompt_memory is not None:
        of_first = None if rows is None else rows[:, :1]  # all segments of a row use the first one's prompt
        blocks.insert(0, Block(*read(around.prompt_memory, of_first), (around.prompt_memory_bias,)))
      x = residual(x, attention(normed, blocks, keys, site=next(site), scales=scales), 'cross_attention')
    x = checkpoint_name(x, 'mlp_input')
    normed = norm(config, 'pre_mlp_layer_norm')(x)
    return residual(x, MLP(config, name='mlp')(normed, keys, site=next(site), scales=scales), 'mlp'), own

  def _window(self, layer: dict[str, Array], queries: Array | None, keys: Array | None) -> tuple[Array, ...]:
    """Returns the bias that hides keys outside the window; keys without positions are always visible."""
    if 'window' not in layer or keys is None:
      return ()
    distance = jnp.atleast_2d(queries)[:, :, None] - jnp.atleast_2d(keys)[:, None, :]
    return (hide(distance < layer['window'])[:, None],)


def add_relative_biases(config: StackConfig, around: Surroundings, length: int) -> Surroundings:
  """Returns the surroundings of a stack or layer of T positions with its learned relative position biases added."""
  if not config.relative_buckets:
    return around
  relative = RelativeBias(config.heads, config.relative_buckets, config.relative_max_distance,
                          bidirectional=not config.causal, name='relpos_bias')
  index = jnp.arange(length)
  return dataclasses.replace(
    around, biases=(*around.biases, relative(index, index)),
    front_biases=tuple((*biases, relative(around.positions, positions)) for biases, positions in zip(
      around.front_biases, around.front_positions, strict=True)))


def turns(layer: Mapping[str, Array], positions: Array | None) -> Array | None:
  """Returns the rotary angles [B or 1, T, K/2] of positions [T] or [B, T] in a layer; None if it has none."""
  if 'frequencies' not in layer:
    return None
  return jnp.atleast_2d(positions)[..., None] * layer['frequencies']
