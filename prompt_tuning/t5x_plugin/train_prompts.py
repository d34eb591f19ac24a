"""`train_prompts.…` in T5X's gin files: the position of the prompt in the embedded text."""

import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.types import Array


class Prompt(nn.Module):
  """Puts the prompt before every example.

  Attributes:
    prompt: the vectors, a `prompts.Prompt`.
  """

  prompt: nn.Module

  @property
  def length(self) -> int:
    """P, the number of vectors."""
    return self.prompt.length

  def __call__(self, embedded: Array) -> Array:
    """Returns [B, P + T, D] for an embedded text [B, T, D]."""
    batch, _, width = embedded.shape
    vectors = self.prompt(width).astype(embedded.dtype)
    return jnp.concatenate([jnp.broadcast_to(vectors, (batch, *vectors.shape)), embedded], axis=1)
