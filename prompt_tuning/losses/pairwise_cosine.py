"""Cosine loss over pairs of rows: aligns rows of the same class and separates rows of different classes.

The mean over all ordered pairs of B rows of 1 − cos(z_i, z_j) if the labels agree, else max(0, cos(z_i, z_j)): torch's
`cosine_embedding_loss` with margin 0. Its minimum is 0.
"""

import jax
import jax.numpy as jnp

from prompt_tuning.losses.rows import of_rows
from prompt_tuning.types import Array

_SMALLEST = 1e-12  # torch's; added to each squared length, it keeps the gradient at a zero vector finite


def pairwise_cosine(outputs: Array, targets: Array, weights: Array) -> tuple[Array, dict[str, Array]]:
  """Returns the mean over pairs [], and values to report: 'loss' and 'weights' (1: the loss is already a mean).

  Args:
    outputs: [B, T, D], logits or hidden states; z_i is the output at the row's first weighted position.
    targets: [B, T]; a row's weighted targets are its label.
    weights: [B, T]; rows without weights belong to no pair.
  """
  rows, same, pairs = of_rows(outputs, targets, weights)
  unit = rows * jax.lax.rsqrt(jnp.sum(rows**2, axis=1, keepdims=True) + _SMALLEST)
  cosine = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)
  each = jnp.where(same, 1.0 - cosine, jnp.maximum(cosine, 0.0))
  loss = jnp.sum(jnp.where(pairs, each, 0.0)) / jnp.maximum(jnp.sum(pairs), 1)
  return loss, {'loss': loss, 'weights': jnp.any(pairs).astype(jnp.float32)}


pairwise_cosine.over_pairs = True
