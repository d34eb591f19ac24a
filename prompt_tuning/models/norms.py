"""The norms of a stack."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.models.stack_config import StackConfig
from prompt_tuning.types import Array


def rms(x: Array, epsilon: float) -> Array:
  """Returns x / sqrt(mean(x²) + epsilon) over the last axis, in float32."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)


class RMSNorm(nn.Module):
  """x / sqrt(mean(x²) + epsilon) · (scale + offset) (Zhang and Sennrich 2019), computed in float32."""

  dtype: Any = jnp.float32
  epsilon: float = 1e-6
  offset: float = 0.0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.constant(1.0 - self.offset), (x.shape[-1],))
    return (rms(x, self.epsilon) * (scale + self.offset)).astype(self.dtype)


def norm(config: StackConfig, name: str | None = None) -> nn.Module:
  """Returns a norm of the stack's kind."""
  if config.norm == 'layer':
    return nn.LayerNorm(config.norm_epsilon, dtype=config.dtype, use_bias=config.norm_bias, name=name)
  return RMSNorm(config.dtype, config.norm_epsilon, config.norm_offset, name=name)


def head_norm(config: StackConfig, **placed: Any) -> RMSNorm:
  """Returns the norm of a stack's queries or keys."""
  return RMSNorm(config.dtype, config.norm_epsilon, config.norm_offset, **placed)
