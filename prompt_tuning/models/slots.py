"""Prompts in the rows: the vector of each position, and the vectors that later layers add there."""

from collections.abc import Mapping

import jax.numpy as jnp

from prompt_tuning.models.layers import gather
from prompt_tuning.rows.conditioning import StackConditioning
from prompt_tuning.types import Array


def prompt_rows(layout: Mapping[str, Array], prompt_ids: Array, given: StackConditioning) -> Array:
  """Returns [B, T], the index of each position's vector among all N·P; -1 for a token.

  Args:
    layout: the stack's part of a batch.
    prompt_ids: [B, G], which prompt each segment of a row uses.
    given: `prompt` is [N, P, D].
  """
  slots = layout['prompt_slots']
  count, length, _ = given.prompt.shape
  if count == 1:
    return slots
  segments = jnp.maximum(layout['segments'] - 1, 0)
  rows = slots + length * jnp.take_along_axis(prompt_ids, segments, axis=1)
  return jnp.where(slots >= 0, rows, -1)


def separate_rows(given: StackConditioning) -> Array:
  """Returns [N, P], the indices of `prompt_rows` for prompts that are run as separate rows."""
  count, length, _ = given.prompt.shape
  return jnp.arange(count * length).reshape(count, length)


def entries(given: StackConditioning, name: str) -> Array | None:
  """Returns [N, P], 1 where an entry of a field of `AXES` has a position, 0 where it is padded; None if none is."""
  if name not in given.lengths:
    return None
  return (jnp.arange(given.longest(name)) < given.lengths[name][:, None]).astype(jnp.int32)


def fill_prompt(x: Array, rows: Array, given: StackConditioning) -> Array:
  """Puts the prompt's vectors [N, P, D] into embedded tokens [B, T, D], at the indices `rows` of `prompt_rows`."""
  vectors = given.prompt.reshape(-1, given.prompt.shape[-1])
  return jnp.where((rows >= 0)[..., None], gather(vectors, rows, x.dtype), x)


def added_vectors(given: StackConditioning, layers: int) -> Array | None:
  """Returns [L - 1, N·P, D], the vectors that layers after the first add to the prompt; None if there are none.

  Raises:
    ValueError: they have no prompt, or another shape.
  """
  if given.added is None:
    return None
  if given.prompt is None or given.added.shape != (layers - 1, *given.prompt.shape):
    prompt = 'there is no prompt' if given.prompt is None else f'the prompt has shape {tuple(given.prompt.shape)}'
    raise ValueError(f'`added` has shape {tuple(given.added.shape)}, and {prompt}. Give a prompt [N, P, D], and '
                     f'`added` [{layers - 1}, N, P, D] for this stack of {layers} layers.')
  count, length, width = given.prompt.shape
  return given.added.reshape(layers - 1, count * length, width)
