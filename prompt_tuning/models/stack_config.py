"""The shape of a stack: the differences between families, as values."""

import dataclasses
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from prompt_tuning.models.positions import Rotary
from prompt_tuning.types import Array

# The values of a layer that the backward pass needs when weights are frozen; the rest is cheap to recompute.
_KEPT = ('attention_input', 'mlp_input', 'query', 'key', 'value', 'attention_weights', 'mlp_hidden', 'unscaled')
REMATERIALISE: dict[str, Any] = {
  'none': jax.checkpoint_policies.save_only_these_names(*_KEPT),
  'full': jax.checkpoint_policies.nothing_saveable,
}
ATTENTION = ('auto', 'xla', 'cudnn', 'pallas')


@dataclasses.dataclass(frozen=True)
class StackConfig:
  """The shape of a stack. The defaults are those of T5 1.1.

  Attributes:
    layers: L.
    width: D.
    heads: H.
    head_dim: K.
    mlp_dim: F.
    kv_heads: the number of KV heads, each read by a group of H / kv_heads heads; 0 means H.
    mlp_activations: one activation, or two whose outputs are multiplied (a gated MLP).
    causal: a position sees only itself and earlier positions.
    cross: each layer also attends to a memory (a decoder that reads an encoder).
    norm: 'rms', or 'layer' (LayerNorm with a bias).
    norm_epsilon: added to the variance.
    norm_offset: added to the scale of RMS norms (Gemma's is stored without its 1).
    post_norms: the outputs of attention and MLP are normed too (Gemma 2 and 3).
    query_norms: queries and keys are normed (Qwen 3, Gemma 3).
    bias: dense layers have biases (GPT-2).
    projection_biases: which of attention's 'query', 'key', 'value' and 'out' have biases if other layers have none
      (Qwen 2).
    query_scale: factor on queries.
    attention_cap: limit of the attention logits (Gemma 2); 0 means none.
    rotary: rotary positions of each layer; empty means none.
    windows: how far back each layer sees, itself included; 0 means no limit, empty means 0 for all.
    relative_buckets: buckets of T5's relative position bias; 0 means no such bias.
    relative_max_distance: distance at which the last bucket starts.
    layer_biases: each layer has separate position biases (umT5); else all layers share them.
    initial_scale: standard deviation of new dense weights, as in GPT-2 (weights that write to the residual stream start
      smaller by a factor of √(2 L)); 0 scales by the fan-in, as T5 does.
    outputs: V, width of an output layer after the last norm; 0 means none.
    output_bias: the output layer has a bias.
    dropout_rate: share of activations dropped in training.
    dtype: type of the activations; norms, softmax and logits are computed in float32.
    rematerialise: 'none' keeps what the backward pass needs, 'full' keeps only each layer's input.
    attention: the program that computes attention, see `kernels.choose`.
    mesh: the devices that the model is spread over, see `sharding`; None means one.
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
  projection_biases: tuple[str, ...] = ()
  query_scale: float = 1.0
  attention_cap: float = 0.0
  rotary: tuple[Rotary, ...] = ()
  windows: tuple[int, ...] = ()
  relative_buckets: int = 0
  relative_max_distance: int = 128
  layer_biases: bool = False
  initial_scale: float = 0.0
  outputs: int = 0
  output_bias: bool = False
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  rematerialise: str = 'none'
  attention: str = 'xla'
  mesh: Mesh | None = None

  def initialiser(self, *, scale: float = 1.0, shape: str = 'normal', writes: bool = False) -> Any:
    """Returns the initialiser of a layer's dense weights.

    Args:
      scale: of the variance, if it is scaled by the fan-in.
      shape: of the distribution in that case.
      writes: the weights write to the residual stream.
    """
    if not self.initial_scale:
      return jax.nn.initializers.variance_scaling(scale, 'fan_in', shape)
    return jax.nn.initializers.normal(self.initial_scale / ((2 * self.layers)**0.5 if writes else 1.0))

  def per_layer(self) -> dict[str, Array]:
    """Returns the values that differ between layers, apart from the weights; arrays with a leading [L]."""
    found: dict[str, Array] = {'number': jnp.arange(self.layers)}
    if self.rotary:
      found['frequencies'] = jnp.asarray(np.stack([rotary.frequencies(self.head_dim) for rotary in self.rotary]))
    if any(self.windows):
      found['window'] = jnp.array([window or 1 << 30 for window in self.windows], jnp.int32)
    return found


def dense_shapes(config: StackConfig, stack: str) -> dict[str, tuple[int, int, int]]:
  """Returns the name of each dense layer of a stack's layers -> L, and the widths of its input and output."""
  heads, read = config.heads * config.head_dim, (config.kv_heads or config.heads) * config.head_dim
  names = [self_attention_name(config), *(['encoder_decoder_attention'] if config.cross else [])]
  widths = {f'{name}/{part}': size for name in names for part, size in (
    ('query', (config.width, heads)), ('key', (config.width, read)), ('value', (config.width, read)),
    ('out', (heads, config.width)))}
  widths |= {f'mlp/{name}': (config.width, config.mlp_dim) for name in mlp_names(config)}
  widths['mlp/wo'] = config.mlp_dim, config.width
  return {f'{stack}/{name}': (config.layers, *size) for name, size in widths.items()}


def self_attention_name(config: StackConfig) -> str:
  """Returns T5X's name of a layer's self-attention."""
  return 'self_attention' if config.causal else 'attention'


def mlp_names(config: StackConfig) -> list[str]:
  """Returns the names of the dense layers that read an MLP's input."""
  count = len(config.mlp_activations)
  return ['wi'] if count == 1 else [f'wi_{i}' for i in range(count)]


def require_choices(config: Any) -> None:
  """Checks the settings of a config that are one of a few words, and its dropout.

  Raises:
    ValueError: one is unknown or out of range.
  """
  for name, choices in (('rematerialise', REMATERIALISE), ('attention', ATTENTION)):
    if getattr(config, name) not in choices:
      raise ValueError(f'{name}={getattr(config, name)!r} cannot be used: expected one of {", ".join(choices)}.')
  rate = config.dropout_rate
  if not isinstance(rate, numbers.Real) or not 0 <= rate < 1:
    raise ValueError(f'dropout_rate={rate!r} cannot be used: expected a number from 0 to below 1.')


def require_sizes(config: Any, *names: str) -> None:
  """Checks the sizes of a config.

  Raises:
    ValueError: one is not a whole number above 0, or the heads are not a multiple of the KV heads.
  """
  for name in names:
    size = getattr(config, name)
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
      raise ValueError(f'{name}={size!r} cannot be used: expected a whole number above 0.')
  kv_heads = getattr(config, 'kv_heads', 0)
  if kv_heads and config.heads % kv_heads:
    raise ValueError(f'kv_heads={kv_heads} cannot be used with heads={config.heads}, which it does not divide. Give '
                     'every KV head the same number of heads.')
