"""Gated DeltaNet (Yang, Kautz and Hatamizadeh 2025): a layer's mixer whose past is a state of fixed size, not keys."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from prompt_tuning.models import delta_rule
from prompt_tuning.models.delta_rule import Spans
from prompt_tuning.models.dense import Dense
from prompt_tuning.models.norms import RMSNorm
from prompt_tuning.models.stack_config import StackConfig
from prompt_tuning.rows.conditioning import State
from prompt_tuning.types import Array

PARTS = ('query', 'key', 'value')


class DeltaAttention(nn.Module):
  """Projections, a short convolution of each, the gated delta rule, and a gated norm before the projection back."""

  config: StackConfig

  @nn.compact
  def __call__(self, x: Array, before: State | None, spans: Spans | None,
               scales: Mapping[str, Array] | None = None) -> tuple[Array, State]:
    """Returns the output [B, T, D], and the state after the last segment of each row.

    Args:
      x: [B, T, D].
      before: the state before every segment, of each row or of one for all; None means an empty one.
      spans: the segments of the rows; None means one without padding.
      scales: factors of dense layers, as in `Dense`.
    """
    config, shape = self.config, self.config.delta
    dense = lambda name, width, **more: Dense(
      width, name=name, **{'use_bias': False, 'dtype': config.dtype, 'kernel_init': config.initialiser()} | more)
    inputs = [checkpoint_name(dense(name, width)(x, scales), name)
              for name, width in zip(PARTS, shape.widths, strict=True)]
    gate = checkpoint_name(dense('gate', shape.widths[2])(x, scales), 'gate')
    rate, decay = self._rates(dense, x, scales)
    if spans is not None:
      rate, decay = (jnp.where(spans.tokens[..., None, None], each, 0.0) for each in (rate, decay))

    tails = (None,) * 3 if before is None else before.tails
    turned = [nn.silu(delta_rule.convolved(each, self._weights(name, each), tail, spans))
              for name, each, tail in zip(PARTS, inputs, tails, strict=True)]
    heads = lambda array, *sizes: array.reshape(*array.shape[:2], *sizes)
    query, key = (_unit(heads(array, shape.key_heads, shape.key_dim)) for array in turned[:2])
    query, value = query * shape.key_dim**-0.5, heads(turned[2], shape.key_heads, shape.sharing, shape.value_dim)
    memory = None if before is None else before.memory.reshape(-1, *value.shape[2:4], shape.key_dim, shape.value_dim)
    if x.shape[1] == 1 and memory is not None:
      memory = jnp.broadcast_to(memory, (len(x), *memory.shape[1:]))
      out, memory = delta_rule.step(*(array[:, 0] for array in (query, key, value, decay, rate)), memory)
    else:
      out, memory = delta_rule.chunked(query, key, value, decay, rate, state=memory, spans=spans)

    out = RMSNorm(jnp.float32, config.norm_epsilon, name='norm')(
      out.reshape(*x.shape[:2], shape.value_heads, shape.value_dim))
    out = (out.reshape(gate.shape) * nn.silu(gate.astype(jnp.float32))).astype(config.dtype)
    after = State(memory.reshape(len(x), shape.value_heads, shape.key_dim, shape.value_dim), tuple(
      delta_rule.tail_after(each, tail, spans, shape.taps - 1) for each, tail in zip(inputs, tails, strict=True)))
    return dense('out', config.width, kernel_init=config.initialiser(writes=True))(out, scales), after

  def _rates(self, dense, x: Array, scales: Mapping[str, Array] | None) -> tuple[Array, Array]:
    """Returns β and g of each position, [B, T, G, R] in float32."""
    shape = self.config.delta
    exact = lambda name, **more: checkpoint_name(
      dense(name, shape.value_heads, dtype=jnp.float32, **more)(x, scales), 'gate')
    speed = self.param('log_decay', _log_decay, (shape.value_heads,)).astype(jnp.float32)
    rate, decay = nn.sigmoid(exact('rate')), -jnp.exp(speed) * nn.softplus(exact('decay', use_bias=True))
    return tuple(each.reshape(*x.shape[:2], shape.key_heads, shape.sharing) for each in (rate, decay))

  def _weights(self, name: str, x: Array) -> Array:
    """Returns the convolution's weights [C, W] of a part."""
    taps = self.config.delta.taps
    return self.param(f'{name}_taps', nn.initializers.normal(taps**-0.5), (x.shape[-1], taps, 1))[..., 0]


def _unit(x: Array) -> Array:
  """Returns vectors of length 1; the small constant is that of Yang et al.'s program."""
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-6)


def _log_decay(key: Array, shape: tuple[int, ...]) -> Array:
  return jnp.log(jax.random.uniform(key, shape, minval=0.01, maxval=16.0))
