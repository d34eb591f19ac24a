"""The shape of a stack: what differs between families, as values."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from prompt_tuning.models.positions import Rotary
from prompt_tuning.types import Array

# What a step's backward pass needs of a layer when weights are frozen: the rest is cheap to make again.
_KEPT = ('attention_input', 'mlp_input', 'query', 'key', 'value', 'attention_weights', 'mlp_hidden')
REMATERIALISE: dict[str, Any] = {
  'none': jax.checkpoint_policies.save_only_these_names(*_KEPT),
  'full': jax.checkpoint_policies.nothing_saveable,
}
ATTENTION = ('auto', 'xla', 'cudnn', 'pallas')


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
    projection_biases: which of attention's 'query', 'key', 'value' and 'out' have biases where others have none
      (Qwen 2).
    query_scale: factor on queries.
    attention_cap: attention logits are squashed to below it (Gemma 2); 0 leaves them.
    rotary: rotary positions of each layer; empty is none.
    windows: how far back each layer sees, itself included; 0 is without limit, empty is 0 for all.
    relative_buckets: buckets of T5's relative position bias; 0 is no such bias.
    relative_max_distance: distance at which the last bucket starts.
    layer_biases: each layer has position biases of its own (umT5); else all share one.
    initial_scale: standard deviation of new dense weights, as GPT-2 has it (those that write to the residual stream
      begin smaller by the root of 2 L); 0 scales by the fan-in, as T5 does.
    outputs: V, width of an output layer behind the last norm; 0 is none.
    output_bias: the output layer has a bias.
    output_scale: factor on what the last norm gives.
    dropout_rate: share of activations dropped in training.
    dtype: type of the activations; norms and softmax are computed in float32.
    rematerialise: 'none' keeps what the backward pass needs, 'full' keeps only each layer's input.
    attention: the program that computes attention, see `kernels.choose`.
    mesh: the devices that the model is spread over, see `sharding`; None is one.
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
  output_scale: float = 1.0
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  rematerialise: str = 'none'
  attention: str = 'auto'
  mesh: Mesh | None = None

  def initialiser(self, *, scale: float = 1.0, shape: str = 'normal', writes: bool = False) -> Any:
    """Returns how new dense weights of a layer start.

    Args:
      scale: of the variance, where it goes by the fan-in.
      shape: of the distribution there.
      writes: the weights write to the residual stream.
    """
    if not self.initial_scale:
      return jax.nn.initializers.variance_scaling(scale, 'fan_in', shape)
    return jax.nn.initializers.normal(self.initial_scale / ((2 * self.layers)**0.5 if writes else 1.0))

  def per_layer(self) -> dict[str, Array]:
    """Returns what differs between layers beside the weights; arrays with a leading [L]."""
    found: dict[str, Array] = {'number': jnp.arange(self.layers)}
    if self.rotary:
      found['frequencies'] = jnp.stack([rotary.frequencies(self.head_dim) for rotary in self.rotary])
    if any(self.windows):
      found['window'] = jnp.array([window or 1 << 30 for window in self.windows], jnp.int32)
    return found


def require_choices(config: Any) -> None:
  """Compares a config's choices with those that there are.

  Raises:
    ValueError: one is unknown.
  """
  for name, choices in (('rematerialise', REMATERIALISE), ('attention', ATTENTION)):
    if getattr(config, name) not in choices:
      raise ValueError(f'{name} is {getattr(config, name)!r}; choose one of {", ".join(choices)}.')
