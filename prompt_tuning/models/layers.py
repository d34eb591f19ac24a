"""One layer of the stack."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from prompt_tuning.models import kernels
from prompt_tuning.models.activations import ACTIVATIONS, multiplied
from prompt_tuning.models.attention import Block
from prompt_tuning.models.delta_attention import DeltaAttention
from prompt_tuning.models.dense import Dense
from prompt_tuning.models.dropout import drop
from prompt_tuning.models.experts import Experts
from prompt_tuning.models.layer_kinds import Kind, attention_shape, mlp_width, stored_shape
from prompt_tuning.models.layer_positions import add_relative_biases, query_factor, turns, window_bias
from prompt_tuning.models.norms import head_norm, norm, rms
from prompt_tuning.models.positions import rotate
from prompt_tuning.models.scaling import picked
from prompt_tuning.models.stack_config import StackConfig, mlp_names, self_attention_name
from prompt_tuning.models.surroundings import Scanned, Surroundings
from prompt_tuning.rows.conditioning import State
from prompt_tuning.types import Array


def gather(vectors: Array, rows: Array, dtype: Any) -> Array:
  """Returns [B, T, D], the vectors [M, D] at the indices `rows` [B, T]; zeros for -1."""
  return jnp.where((rows >= 0)[..., None], vectors.astype(dtype)[jnp.maximum(rows, 0)], 0)


class Attention(nn.Module):
  """Multi-head attention: `[D, H·K]` projections of query, key and value, `[H·K, D]` back.

  If the layers of a stack differ in heads, keys and values are stored in one shape: narrower heads end with zeros, and
  so do their queries; fewer heads are repeated. The products are the same.

  Attributes:
    config: the stack's shape.
    kind: of the layer.
  """

  config: StackConfig
  kind: Kind = Kind()

  def setup(self) -> None:
    config, self.shape = self.config, attention_shape(self.config, self.kind)
    initialise = config.initialiser()
    dense = lambda name, features, init: Dense(
      features, use_bias=config.bias or name in config.projection_biases, dtype=config.dtype, kernel_init=init)
    # T5 folds 1/sqrt(K) into the query's initialiser and does not scale logits.
    small = config.initialiser(scale=1.0 / self.shape.head_dim)
    read, width = self.shape.kv_heads * self.shape.head_dim, config.heads * self.shape.head_dim
    self.query = dense('query', width, small if config.query_scale == 1.0 else initialise)
    self.key = dense('key', read, initialise)
    self.value = dense('value', read, initialise)
    self.out = dense('out', config.width, config.initialiser(writes=True))
    if config.output_gate:
      self.gate = dense('gate', width, initialise)
    if config.sinks:
      self.sinks = self.param('sinks', nn.initializers.zeros, (config.heads,))
    if config.query_norms:
      self.query_norm, self.key_norm = head_norm(config), head_norm(config)

  def keys_values(self, x: Array, turn: tuple[Array, Array] | None = None, *,
                  scales: Mapping[str, Array] | None = None) -> tuple[Array, Array]:
    """Returns keys and values [B, kv_heads, T, K] of `x` [B, T, D]; keys are rotated by `turn`, as in `rotate`."""
    config, product = self.config, self.key(x, scales)
    keys = self._heads(product, 'key')
    if turn is not None:
      keys = rotate(keys, turn, neighbours=config.rotary_neighbours)
    values = self._split(product if self.shape.keys_are_values else self.value(x, scales))
    values = checkpoint_name(values, 'value')
    if config.value_norms:
      values = rms(values, config.norm_epsilon).astype(values.dtype)
    return self._stored(self._kept(keys, 'key')), self._stored(values)

  def __call__(self, x: Array, blocks: Sequence[Block], dropout: Array | None, *, site: int,
               turn: tuple[Array, Array] | None = None, factor: Array | float = 1.0,
               scales: Mapping[str, Array] | None = None, memory: Sequence[Block] = ()) -> Array:
    """Returns the attention of `x` [B, T, D] to the blocks, and to those of a memory in one softmax, [B, T, D].

    `site` is as in `drop`, `turn` as in `rotate`, and `factor`, of `query_factor`, multiplies the queries.
    """
    config, blocks = self.config, [*blocks, *memory]
    query = self._heads(self.query(x, scales), 'query')
    if isinstance(factor, jax.Array) or factor != 1.0:
      query = (query * factor).astype(query.dtype)
    if turn is not None:
      query = rotate(query, turn, neighbours=config.rotary_neighbours)
    query = self._widened(self._kept(query, 'query'))
    factors = None
    if dropout is not None and config.dropout_rate:
      count = sum(block.keys.shape[2] for block in blocks)
      ones = jnp.ones((x.shape[0], config.heads, 1, count), query.dtype)
      factors = drop(ones, dropout, config.dropout_rate, site=site, over=(1, 3))
    wanted = self.is_mutable_collection('intermediates')
    heads, weights = kernels.attend(query, blocks, asked=config.attention, dropout=factors, cap=config.attention_cap,
                                    weights=wanted, mesh=config.mesh, sinks=self.sinks if config.sinks else None)
    if wanted:
      own = weights.shape[-1] - sum(block.keys.shape[2] for block in memory)
      self.sow('intermediates', 'weights', weights[..., :own])
      if memory:
        self.sow('intermediates', 'memory_weights', weights[..., own:])
    heads = heads[..., :self.shape.head_dim].swapaxes(1, 2).reshape(*x.shape[:2], -1)  # [B, H, T, K] -> [B, T, H·K]
    if config.output_gate:
      heads = heads * nn.sigmoid(checkpoint_name(self.gate(x, scales), 'gate'))
    return self.out(heads, scales)

  def _heads(self, x: Array, name: str) -> Array:
    """Returns queries or keys [B, H, T, K], normed if the stack norms them."""
    if not self.config.query_norms:
      return self._split(x)
    x, normed = checkpoint_name(x, name), getattr(self, f'{name}_norm')
    return self._split(normed(x)) if self.config.wide_query_norms else normed(self._split(x))

  def _kept(self, x: Array, name: str) -> Array:
    """Returns queries or keys, kept for the backward pass unless the input of their norm is."""
    return x if self.config.query_norms else checkpoint_name(x, name)

  def _split(self, x: Array) -> Array:
    heads = x.reshape(*x.shape[:2], -1, self.shape.head_dim)
    return heads.swapaxes(1, 2)  # [B, T, H, K] -> [B, H, T, K]

  def _stored(self, x: Array) -> Array:
    """Returns keys or values in the shape that the stack stores."""
    repeats = stored_shape(self.config).kv_heads // x.shape[1]
    return self._widened(jnp.repeat(x, repeats, axis=1) if repeats > 1 else x)

  def _widened(self, x: Array) -> Array:
    missing = stored_shape(self.config).head_dim - x.shape[-1]
    return jnp.pad(x, [*[(0, 0)] * 3, (0, missing)]) if missing else x


class MLP(nn.Module):
  """activation(x·wi)·wo; with two activations, the product of two such inputs (Shazeer 2020).

  Attributes:
    config: the stack's shape.
    width: F of the layer; 0 means that of the stack.
  """

  config: StackConfig
  width: int = 0

  @nn.compact
  def __call__(self, x: Array, dropout: Array | None, *, site: int, scales: Mapping[str, Array] | None = None) -> Array:
    config = self.config
    dense = lambda features, name: Dense(
      features, use_bias=config.bias or config.mlp_bias, dtype=config.dtype, name=name,
      kernel_init=config.initialiser(shape='truncated_normal', writes=name == 'wo'))
    hidden = multiplied(config, [checkpoint_name(dense(self.width or config.mlp_dim, name)(x, scales), 'mlp_hidden')
                                 for name in mlp_names(config)])
    hidden = drop(hidden, dropout, config.dropout_rate, site=site, over=(2,))
    return dense(config.width, 'wo')(hidden, scales)


class Layer(nn.Module):
  """Norm, attention, (norm, attention to the memory,) norm, MLP; each adds to the residual stream.

  The config may move or drop the norms, and let attention and MLP read the same input.

  Attributes:
    config: the stack's shape.
    kind: of the layer.
  """

  config: StackConfig
  kind: Kind = Kind()

  @nn.compact
  def __call__(self, x: Array, scanned: Scanned,
               around: Surroundings) -> tuple[Array, tuple[Array, Array] | State | None]:
    """Returns the layer's output [B, T, D], and its own keys and values [B, kv_heads, T, K] or its state, if any."""
    config, layer = self.config, scanned.layer
    keys = around.dropout
    if keys is not None:
      keys = jax.vmap(lambda key: jax.random.fold_in(key, layer['number']))(keys)
    site = itertools.count()

    def named(x: Array, name: str) -> Array:
      # After a norm it is cheap to make again of what the norm read, which is kept.
      return x if config.post_norms or config.residual_norms else checkpoint_name(x, name)

    def before(x: Array, name: str) -> Array:
      return norm(config, f'pre_{name}_layer_norm')(x) if config.pre_norms else x

    def residual(x: Array, y: Array, name: str) -> Array:
      if config.post_norms:
        y = norm(config, f'post_{name}_layer_norm')(checkpoint_name(y, 'norm_input'))
      if config.residual_scale != 1.0:
        y = y * config.residual_scale
      x = x + drop(y, keys, config.dropout_rate, site=next(site), over=(2,))
      if not config.residual_norms:
        return x
      return norm(config, f'residual_{name}_layer_norm')(checkpoint_name(x, 'norm_input'))

    if config.layer_biases:
      around = add_relative_biases(config, around, x.shape[1])
    name = 'delta_attention' if self.kind.delta else self_attention_name(config)
    scales = picked(scanned.scales, around.scale_rows)
    if scanned.added is not None:
      x = x + gather(scanned.added, around.added_rows, x.dtype)
    x = checkpoint_name(x if scanned.inputs is None else scanned.inputs, 'attention_input')
    normed = before(x, name)
    if config.plain_start:
      normed = jnp.where(layer['number'] == 0, x, normed)
    if self.kind.delta:
      mixed, own = DeltaAttention(config, name=name)(normed, scanned.state, around.spans, scales)
    else:
      mixed, own = self._attend(normed, scanned, around, keys, site=next(site), name=name)
    read, x = x, residual(x, mixed, name)
    if config.cross and not config.merged:
      x = named(x, 'attention_input')
      attention = Attention(config, name='encoder_decoder_attention')
      blocks = _memory_blocks(attention, scanned, around)
      queries = norm(config, 'pre_cross_attention_layer_norm')(x)
      x = residual(x, attention(queries, blocks, keys, site=next(site), factor=config.query_scale, scales=scales),
                   'cross_attention')
    if not config.parallel:
      read = x = named(x, 'mlp_input')
    if not config.shared_norm:
      normed = before(read, 'mlp')
    mlp = Experts(config, name='mlp') if config.experts else MLP(config, mlp_width(config, self.kind), name='mlp')
    x = residual(x, mlp(normed, keys, site=next(site), scales=scales), 'mlp')
    if scanned.embedded is not None:
      x = residual(x, self._read_embedding(x, scanned.embedded), 'embedding')
    if config.output_scales:
      x = x * self.param('output_scale', nn.initializers.ones, (1,)).astype(x.dtype)
    return x, own

  def _read_embedding(self, x: Array, embedded: Array) -> Array:
    """Returns what the layer makes [B, T, D] of its own embedding [B, T, E] of each position."""
    config = self.config
    dense = lambda features, name: Dense(features, use_bias=False, dtype=config.dtype, name=name,
                                         kernel_init=config.initialiser())
    gate = checkpoint_name(dense(config.layer_embedding, 'embedding_gate')(x), 'gate')
    return dense(config.width, 'embedding_out')(ACTIVATIONS[config.mlp_activations[0]](gate) * embedded)

  def _attend(self, normed: Array, scanned: Scanned, around: Surroundings, keys: Array | None, *, site: int,
              name: str) -> tuple[Array, tuple[Array, Array] | None]:
    """Returns the attention of the layer's input to what precedes it and to itself, and its own keys and values."""
    config, layer = self.config, scanned.layer
    attention, scales = Attention(config, self.kind, name=name), picked(scanned.scales, around.scale_rows)
    turn = turns(layer, around.positions, attention_shape(config, self.kind).head_dim)
    if self.kind.shared:
      read, fronts = around.shared[self.kind.wide]
    else:
      read, fronts = attention.keys_values(normed, turn, scales=scales), scanned.fronts
    window = functools.partial(window_bias, layer, around.positions)
    blocks = [Block(*front, (*biases, *window(positions)))
              for front, biases, positions in zip(fronts, around.front_biases, around.front_positions,
                                                  strict=True)]
    near = window(around.positions)
    alone = around.segments is not None and not near and not config.relative_buckets and not config.linear_biases
    blocks.append(Block(*read, (*around.biases, *near), (around.segments,) * 2 if alone else None, config.causal))
    mixed = attention(normed, blocks, keys, site=site, turn=turn, scales=scales,
                      factor=query_factor(config, around.positions),
                      memory=_memory_blocks(attention, scanned, around) if config.merged else ())
    return mixed, None if self.kind.shared else read


def _memory_blocks(attention: Attention, scanned: Scanned, around: Surroundings) -> list[Block]:
  """Returns what a layer reads of a memory: of a prompt that was run separately, of a KV prefix, of the memory."""
  read = lambda vectors, rows: attention.keys_values(vectors, scales=picked(scanned.scales, rows))
  rows, blocks = around.memory_scale_rows, []
  if around.prompt_memory is not None:
    of_first = None if rows is None else rows[:, :1]  # all segments of a row use the first one's prompt
    blocks.append(Block(*read(around.prompt_memory, of_first), (around.prompt_memory_bias,)))
  if scanned.memory_front is not None:
    blocks.append(Block(*scanned.memory_front, (around.memory_front_bias,)))
  memory = scanned.memory if around.memory is None else read(around.memory, rows)
  return [*blocks, Block(*memory, (around.memory_bias,), around.memory_segments)]
