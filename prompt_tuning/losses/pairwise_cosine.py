"""Cosine loss over pairs of rows: rows of one class shall point the same way, others shall not.

Over all ordered pairs of B rows, the mean of 1 − cos(z_i, z_j) where the labels agree, else of max(0, cos(z_i, z_j)):
torch's `cosine_embedding_loss` with margin 0. Its smallest value is 0.
"""

import jax
import jax.numpy as jnp

from prompt_tuning.losses.rows import of_rows
from prompt_tuning.types import Array

_SMALLEST = 1e-12  # torch's, under the root of each squared length: the gradient at a zero vector is finite


def pairwise_cosine(outputs: Array, targets: Array, weights: Array) -> tuple[Array, dict[str, Array]]:
  """Returns the mean over pairs [], and what to report: 'loss' and 'weights' (1: it is a mean already).

  Args:
    outputs: [B, T, D], logits or hidden states; z_i is that of the row's first weighted position.
    targets: [B, T]; a row's weighted ones are its label.
    weights: [B, T]; rows without any are in no pair.
  """
  rows, same, pairs = of_rows(outputs, targets, weights)
  unit = rows * jax.lax.rsqrt(jnp.sum(rows**2, axis=1, keepdims=True) + _SMALLEST)
  cosine = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)
  each = jnp.where(same, 1.0 - cosine, jnp.maximum(cosine, 0.0))
  loss = jnp.sum(jnp.where(pairs, each, 0.0)) / jnp.maximum(jnp.sum(pairs), 1)
  return loss, {'loss': loss, 'weights': jnp.any(pairs).astype(jnp.float32)}


pairwise_cosine.over_pairs = True
