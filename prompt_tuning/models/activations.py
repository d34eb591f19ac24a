"""Activations of MLPs."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from prompt_tuning.models.stack_config import StackConfig
from prompt_tuning.types import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'gelu': lambda x: jax.nn.gelu(x, approximate=True), 'gelu_exact': lambda x: jax.nn.gelu(x, approximate=False),
  'silu': jax.nn.silu, 'relu': jax.nn.relu, 'linear': lambda x: x}


def multiplied(config: StackConfig, products: Sequence[Array]) -> Array:
  """Returns the product of the activations of an MLP's inputs [..., F], one for each of its activations."""
  if config.clamped_gate is not None:
    sharpness, limit = config.clamped_gate
    gate, up = products
    gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
    return (up + 1) * gate * jax.nn.sigmoid(gate * sharpness)
  return math.prod(ACTIVATIONS[name](each) for name, each in zip(config.mlp_activations, products, strict=True))
