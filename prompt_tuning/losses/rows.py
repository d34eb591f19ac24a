"""One representation per row: the model's output at the position that predicts the row's first target."""

import jax.numpy as jnp

from prompt_tuning.types import Array


def at_first_target(outputs: Array, weights: Array) -> Array:
  """Returns [B, D] in float32: each row's output at its first weighted position.

  Args:
    outputs: [B, T, D], logits or hidden states.
    weights: [B, T], 0 at positions without a target.
  """
  first = jnp.argmax(weights > 0, axis=1)
  return jnp.take_along_axis(outputs, first[:, None, None], axis=1)[:, 0].astype(jnp.float32)


def of_rows(outputs: Array, targets: Array, weights: Array) -> tuple[Array, Array, Array]:
  """Returns each row's representation, the pairs of rows with the same label, and all pairs of rows that count.

  A row's label is the sequence of its weighted targets: a class of several tokens is one class.

  Args:
    outputs: [B, T, D], logits or hidden states.
    targets: [B, T] token ids.
    weights: [B, T]; a row without weights is padding and belongs to no pair.

  Returns:
    [B, D], 0 in padding; [B, B] and [B, B] booleans.
  """
  columns = weights.shape[1]
  real = jnp.any(weights > 0, axis=1)
  # In a decoder-only model, a row's targets come after inputs of any length.
  begins = jnp.argmax(weights > 0, axis=1)[:, None] + jnp.arange(columns)
  labels = jnp.take_along_axis(jnp.where(weights > 0, targets, -1), begins % columns, axis=1)
  same = jnp.all(labels[:, None] == labels[None], axis=-1)
  rows = jnp.where(real[:, None], at_first_target(outputs, weights), 0.0)
  return rows, same, real[:, None] & real[None]
