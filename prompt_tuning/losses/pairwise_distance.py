"""Distance loss over pairs of rows: pulls rows of the same class together and pushes other rows apart.

The sum over all ordered pairs of B rows of ‖z_i − z_j + ε‖ if the labels agree, else 1 / ‖z_i − z_j + ε‖. The distance
is torch's `pairwise_distance`, with ε = 1e-6 added to every component. A row's distance to itself is ε √D.
"""

import jax
import jax.numpy as jnp

from prompt_tuning.losses.rows import of_rows
from prompt_tuning.types import Array

_EPSILON = 1e-6


def pairwise_distance(outputs: Array, targets: Array, weights: Array) -> tuple[Array, dict[str, Array]]:
  """Returns the sum over pairs [], and values to report: 'loss' and 'weights' (1: the loss is of a whole batch).

  Args:
    outputs: [B, T, D], logits or hidden states; z_i is the output at the row's first weighted position.
    targets: [B, T]; a row's weighted targets are its label.
    weights: [B, T]; rows without weights belong to no pair.
  """
  rows, same, pairs = of_rows(outputs, targets, weights)
  # Computed row by row, and again in the backward pass: all differences at once would be [B, B, V].
  distances = jax.lax.map(jax.checkpoint(lambda row: _norm(row - rows + _EPSILON)), rows)
  distances = jnp.where(pairs, distances, 1.0)
  loss = jnp.sum(jnp.where(pairs, jnp.where(same, distances, 1.0 / distances), 0.0))
  return loss, {'loss': loss, 'weights': jnp.any(pairs).astype(jnp.float32)}


def _norm(vectors: Array) -> Array:
  """Returns the norms of vectors; the gradient at 0 is 0, although that of the square root is infinite."""
  squared = jnp.sum(vectors**2, axis=-1)
  nonzero = squared > 0
  return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squared, 1.0)), 0.0)


pairwise_distance.over_pairs = True
