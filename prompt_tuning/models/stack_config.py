"""The shape of a stack: the differences between families, as values."""

import dataclasses
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from prompt_tuning.models.attention_shape import AttentionShape
from prompt_tuning.models.delta_shape import DeltaShape
from prompt_tuning.models.positions import Rotary
from prompt_tuning.types import Array

# The values of a layer that the backward pass needs when weights are frozen; the rest is cheap to recompute.
_KEPT = ('attention_input', 'mlp_input', 'norm_input', 'query', 'key', 'value', 'attention_weights', 'gate',
         'mlp_hidden', 'unscaled')
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
    embedding_width: width of embedded tokens and prompts, and of what the output layer reads, if they are projected to
      and from D (OPT 350m); 0 means D.
    heads: H.
    head_dim: K.
    mlp_dim: F.
    kv_heads: the number of KV heads, each read by a group of H / kv_heads heads; 0 means H.
    mlp_activations: one activation, or two whose outputs are multiplied (a gated MLP).
    clamped_gate: (α, limit) of a gated MLP in place of its activations: inputs g and u are clamped to at most the limit
      and to ±limit, and (u + 1) · g · sigmoid(α g) is taken (gpt-oss).
    experts: E, the number of MLPs of each layer, see `experts`; 0 means one, without a router.
    experts_per_token: k, how many of them a token chooses.
    shares_sum_to_one: the shares of the chosen experts sum to 1; else those of all experts do.
    router_bias: the router has a bias (gpt-oss).
    sinks: each head has a logit for attending to nothing (gpt-oss).
    causal: a position sees only itself and earlier positions.
    cross: each layer also attends to a memory (a decoder that reads an encoder).
    merged: in the softmax of its self-attention, with the same projections; the memory's keys have no positions
      (T5Gemma 2).
    memory_width: width of the memory; 0 means D.
    norm: 'rms', or 'layer' (LayerNorm).
    norm_bias: LayerNorms have a bias.
    norm_epsilon: added to the variance.
    norm_offset: added to the scale of RMS norms (Gemma's is stored without its 1).
    pre_norms: the inputs of attention and MLP are normed.
    post_norms: the outputs of attention and MLP are normed (Gemma 2 and 3, OLMo 2 and 3).
    residual_norms: the residual stream is normed after each addition (OPT 350m).
    final_norm: the output of the last layer is normed.
    plain_start: the first layer's attention reads its input without a norm, whose parameters have no effect
      (ModernBERT).
    parallel: attention and MLP read the same input, and both outputs are added to it (GPT-NeoX).
    shared_norm: they also share a norm (GPT-J, Phi-2).
    residual_scale: factor on what attention and MLP add (Granite).
    query_norms: queries and keys are normed (Qwen 3, Gemma 3).
    wide_query_norms: these norms are over all heads together, not over each (OLMo 2 and 3).
    value_norms: values are normed, without a scale (Gemma 4).
    wide: the shape of attention in the `wide_layers`; that of others is `head_dim` and `kv_heads` (Gemma 4).
    wide_layers: True for each of these layers; empty means none.
    shared_layers: how many layers at the end read the keys and values of the last layer before them that is as wide
      (Gemma 4); they have none of their own.
    shared_mlp_dim: F of these layers; 0 means `mlp_dim`.
    layer_embedding: E, the width of what each layer reads of a token's separate embedding; 0 means none (Gemma 4).
    output_scales: each layer's output is multiplied by a number of its own (Gemma 4).
    bias: dense layers have biases (GPT-2).
    mlp_bias: those of the MLP have, if other layers have none (GPT-J).
    projection_biases: which of attention's 'query', 'key', 'value', 'gate' and 'out' have biases if other layers have
      none (Qwen 2).
    output_gate: the heads' outputs are multiplied by sigmoids of the layer's input (Qwen 3.5).
    query_scale: factor on queries.
    query_growth: (β, n): queries at a position are also multiplied by 1 + β log(1 + ⌊position / n⌋) (Ministral 3).
    attention_cap: limit of the attention logits (Gemma 2); 0 means none.
    rotary: rotary positions of each layer, None for a layer without (SmolLM3); empty means none.
    rotary_neighbours: the dimensions (2i, 2i + 1) of a head are rotated together (GPT-J), not (i, i + R/2).
    rotary_length: how many positions rows may have, if the scaling of rotary positions depends on it (longrope,
      dynamic); 0 means the length that the model was first trained with.
    linear_biases: attention logits fall linearly with the distance (ALiBi; BLOOM).
    windows: how far back each layer sees, itself included; 0 means no limit, empty means 0 for all.
    windows_ahead: how far ahead each layer of a stack that is not causal sees, like `windows`; empty means no limit.
    delta: the shape of the layers that have the gated delta rule in place of attention (Qwen 3.5).
    delta_layers: True for each of these layers; empty means none.
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
  embedding_width: int = 0
  kv_heads: int = 0
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  clamped_gate: tuple[float, float] | None = None
  experts: int = 0
  experts_per_token: int = 0
  shares_sum_to_one: bool = True
  router_bias: bool = False
  sinks: bool = False
  causal: bool = False
  cross: bool = False
  merged: bool = False
  memory_width: int = 0
  norm: str = 'rms'
  norm_bias: bool = True
  norm_epsilon: float = 1e-6
  norm_offset: float = 0.0
  pre_norms: bool = True
  post_norms: bool = False
  residual_norms: bool = False
  final_norm: bool = True
  plain_start: bool = False
  parallel: bool = False
  shared_norm: bool = False
  residual_scale: float = 1.0
  query_norms: bool = False
  wide_query_norms: bool = False
  value_norms: bool = False
  wide: AttentionShape | None = None
  wide_layers: tuple[bool, ...] = ()
  shared_layers: int = 0
  shared_mlp_dim: int = 0
  layer_embedding: int = 0
  output_scales: bool = False
  bias: bool = False
  mlp_bias: bool = False
  projection_biases: tuple[str, ...] = ()
  output_gate: bool = False
  query_scale: float = 1.0
  query_growth: tuple[float, int] | None = None
  attention_cap: float = 0.0
  rotary: tuple[Rotary | None, ...] = ()
  rotary_neighbours: bool = False
  rotary_length: int = 0
  linear_biases: bool = False
  windows: tuple[int, ...] = ()
  windows_ahead: tuple[int, ...] = ()
  delta: DeltaShape | None = None
  delta_layers: tuple[bool, ...] = ()
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
    if any(self.rotary):
      found |= self._rotary()
    for name, windows in (('window', self.windows), ('window_ahead', self.windows_ahead)):
      if any(windows):
        found[name] = jnp.array([window or 1 << 30 for window in windows], jnp.int32)
    return found

  def _rotary(self) -> dict[str, Array]:
    """Returns what rotates queries and keys of each layer; frequencies of 0 rotate nothing."""
    first = next(filter(None, self.rotary))
    widths = [self.wide.head_dim if wide else self.head_dim for wide in self.wide_layers or (False,) * self.layers]
    frequencies = [np.zeros(first.dims(width) // 2, np.float32) if rotary is None else
                   rotary.frequencies(width, self.rotary_length)
                   for rotary, width in zip(self.rotary, widths, strict=True)]
    most = max(map(len, frequencies))  # a layer reads as many as its heads have pairs
    found = {'frequencies': jnp.asarray(np.stack([np.pad(each, (0, most - len(each))) for each in frequencies]))}
    amplitudes = [1.0 if rotary is None else rotary.amplitude for rotary in self.rotary]
    if set(amplitudes) != {1.0}:
      found['amplitude'] = jnp.array(amplitudes, jnp.float32)
    return found


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
  heads = getattr(config, 'heads', 0)
  if kv_heads and heads % kv_heads:
    raise ValueError(f'kv_heads={kv_heads} cannot be used with heads={heads}, which it does not divide. Give '
                     'every KV head the same number of heads.')


def require_rotary(config: Any) -> None:
  """Checks the rotary positions of a config.

  Raises:
    ValueError: `rotary_length` is not a length, or no scaling depends on it.
  """
  length = config.rotary_length
  if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 0:
    raise ValueError(f'rotary_length={length!r} cannot be used: expected a number of positions, or 0 for the length '
                     'that the model was first trained with.')
  if length and not any(rotary and rotary.limit(0) for rotary in config.rotary):
    raise ValueError(f'rotary_length={length} cannot be used: the scaling of this model\'s rotary positions does not '
                     'depend on the length of rows. Leave it out.')
