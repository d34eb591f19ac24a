"""Losses of a classification head whose targets are not one label: several labels, or a number.

  several labels   -Σ_c y_c log σ(z_c) + (1 - y_c) log(1 - σ(z_c)),     averaged over the C outputs
  a number         (z - y)²
"""

import jax
import jax.numpy as jnp

from prompt_tuning.types import Array

_FIELDS = ('label_values',)


def several_labels(logits: Array, targets: Array, weights: Array, values: Array) -> tuple[Array, dict[str, Array]]:
  """Returns the sum of the mean binary cross-entropies of the outputs, and sums to report.

  Args:
    logits: [B, T, C].
    targets: [B, T], not read.
    weights: [B, T].
    values: [B, T, C], 1 for labels that a row has, else 0.
  """
  del targets
  logits = logits.astype(jnp.float32)
  each = jnp.mean(jnp.where(values > 0, -jax.nn.log_sigmoid(logits), -jax.nn.log_sigmoid(-logits)), axis=-1)
  total = jnp.sum(each * weights)
  return total, {'loss': total, 'weights': jnp.sum(weights)}


def squared_error(logits: Array, targets: Array, weights: Array, values: Array) -> tuple[Array, dict[str, Array]]:
  """Returns the sum of squared errors, and sums to report; the arguments are those of `several_labels`, with C = 1."""
  del targets
  total = jnp.sum((logits[..., 0].astype(jnp.float32) - values[..., 0])**2 * weights)
  return total, {'loss': total, 'weights': jnp.sum(weights)}


for _function in (several_labels, squared_error):
  _function.fields, _function.over_positions = _FIELDS, True
