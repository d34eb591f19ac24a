"""Factors on the inputs and outputs of dense layers (IA3, Liu et al. 2022), with entries of their own for each row."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from prompt_tuning.rows.conditioning import StackConditioning
from prompt_tuning.types import Array, Batch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scaling:
  """The scales of a stack, and which of their N entries each position uses.

  Attributes:
    arrays: as `StackConditioning.scales`, name -> [L, N, width].
    rows: [B, T], or [B, 1] for whole rows, the entry of each position of the stack; None means the only one.
    memory_rows: the same for the positions of the encoder's output that a decoder reads.
  """

  arrays: Mapping[str, Array]
  rows: Array | None = None
  memory_rows: Array | None = None

  def spread(self, count: int) -> 'Scaling':
    """Returns the scaling of rows that are each repeated `count` times, without that of a memory."""
    return Scaling(self.arrays, None if self.rows is None else jnp.repeat(self.rows, count, axis=0))


Scalings = Mapping[str, Scaling]  # of stacks


def scaling_of(given: StackConditioning, batch: Batch, stack: str) -> Scaling | None:
  """Returns the scaling of a batch's rows in a stack; a decoder's memory is the batch's 'encoder'. None if not scaled.
  """
  if given.scales is None:
    return None
  rows = lambda name: _rows(batch[name], batch['prompt_ids']) if _count(given) > 1 and name in batch else None
  return Scaling(given.scales, rows(stack), rows('encoder') if stack == 'decoder' else None)


def scaling_of_prompts(given: StackConditioning, count: int) -> Scaling | None:
  """Returns the scaling of N prompts that are run as separate rows, each with its own entry.

  Raises:
    ValueError: there are several scales, but not as many as prompts.
  """
  if given.scales is None:
    return None
  found = _count(given)
  if found not in (1, count):
    raise ValueError(f'Found {count} prompts and {found} scales. Give as many scales as prompts, or one for all.')
  rows = None if found == 1 else jnp.arange(count)[:, None]
  return Scaling(given.scales, rows, rows)


def picked(arrays: Mapping[str, Array], rows: Array | None) -> dict[str, Array]:
  """Returns the factors of one layer [B, T, width], broadcastable, given its scales [N, width]."""
  return {name: array[None] if rows is None else array[rows] for name, array in arrays.items()}


def _count(given: StackConditioning) -> int:
  return next(iter(given.scales.values())).shape[1]


def _rows(layout: Batch, prompt_ids: Array) -> Array:
  """Returns [B, T], the entry of each position's segment; [B, 1] if a row has one segment."""
  if prompt_ids.shape[1] == 1:
    return prompt_ids
  return jnp.take_along_axis(prompt_ids, jnp.maximum(layout['segments'] - 1, 0), axis=1)
