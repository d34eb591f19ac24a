"""The prompts, prefixes or layer prompts of a batch's rows, gathered into one Conditioning."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, Frozen, StackConditioning, Visibility
from prompt_tuning.types import Array

# Field of a StackConditioning -> the axes of N and P in its arrays.
_AXES = {'prompt': (0, 1), 'added': (1, 2), 'prefix': (1, 3), 'memory_prefix': (1, 3), 'layer_prompts': (1, 2)}


class Use(NamedTuple):
  """What one row uses: the index of its prompt or prefix, the places that it takes in the row, and its placement."""

  number: int
  length: int
  placement: layouts.Placement


def collect_prompts(prompt: Any, count: int, model: Frozen) -> tuple[list[Use], Conditioning]:
  """Gathers the conditioning of a batch's rows.

  Args:
    prompt: one for all rows, a list with one (or None) for each, or None; see `language_model`.
    count: B.
    model: the frozen model.

  Returns:
    The `Use` of each row, and the Conditioning with all prompts, padded to the longest.

  Raises:
    ValueError: a prompt does not fit the model, or two rows need different batches.
  """
  rows = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt] * count
  if len(rows) != count:
    raise ValueError(f'Found {len(rows)} prompts for {count} rows. Give one for each row (None for no prompt), '
                     'or a single one for all rows.')
  distinct: dict[int, Any] = {id(each): each for each in rows if each is not None}
  if not distinct:
    return [Use(0, 0, layouts.before)] * count, Conditioning()
  found, uses = [], {}
  for number, (key, each) in enumerate(distinct.items()):
    layout, conditioning = _handed(each, model)
    uses[key] = Use(number, layout.prompt_length, layout.placement)
    found.append(conditioning)
  some_without = any(each is None for each in rows)
  if len(found) > 1 or some_without:
    _require_alike(found)
  without = Use(0, 0, layouts.before)
  if some_without and _in_front(found[0]):  # such rows get one of length 0, also before the row
    without = Use(len(found), 0, layouts.before)
    found.append(_of_length_zero(found[0]))
  return [without if each is None else uses[id(each)] for each in rows], _joined(found)


def _handed(each: Any, model: Frozen) -> tuple[layouts.Layout, Conditioning]:
  """Returns the layout and conditioning of rows with a prompt, or with tensors read from a file."""
  if hasattr(each, 'conditioning'):
    return each.layout(), each.conditioning(model)
  if isinstance(each, str | os.PathLike):
    raise ValueError(f'prompt={str(each)!r} is a path, expected trained tensors. Give pt.load_prompt(path), or '
                     'pt.load_trained(path), which also reads prefixes and other methods.')
  try:
    vectors = jnp.asarray(getattr(each, 'vectors', each), jnp.float32)
  except (TypeError, ValueError) as error:
    raise ValueError(f'A prompt is of type {type(each).__name__}, expected an array [P, {model.width}], or the result '
                     'of pt.load_prompt(path) or pt.load_trained(path). That of a run is `run.prompt`.') from error
  if vectors.ndim != 2 or vectors.shape[1] != model.width:
    raise ValueError(f'The prompt has shape {tuple(vectors.shape)}, but the model expects [P, {model.width}]. '
                     'Use a prompt that was trained for this model.')
  if not bool(jnp.isfinite(vectors).all()):
    raise ValueError('The prompt has numbers that are not finite. Use an earlier prompt of the run.')
  given = StackConditioning(prompt=vectors[None], visibility=getattr(each, 'visibility', Visibility()))
  layout = layouts.Layout(len(vectors), getattr(each, 'placement', layouts.before))
  return layout, Conditioning(**{model.prompted: given})


def _stacks(conditioning: Conditioning) -> dict[str, StackConditioning]:
  return {'encoder': conditioning.encoder, 'decoder': conditioning.decoder}


def _kind(conditioning: Conditioning) -> tuple[str, ...]:
  return tuple(f'{stack}.{name}' for stack, given in _stacks(conditioning).items() for name in given.given())


def _require_alike(found: Sequence[Conditioning]) -> None:
  """Raises ValueError if the rows cannot share one batch."""
  kinds = sorted({', '.join(_kind(each)) or 'nothing' for each in found})
  if any(each.parameters for each in found):
    raise ValueError('Found retrained parameters for one row, but all rows of a batch share them. Give them for all '
                     'rows, or run such rows in a separate batch.')
  if len(kinds) > 1:
    raise ValueError(f'The rows of one batch have different kinds of conditioning ({"; ".join(kinds)}). Run each kind '
                     'in a separate batch.')
  if len({(each.encoder.visibility, each.decoder.visibility) for each in found}) > 1:
    raise ValueError('The prompts of one batch have different visibility. '
                     'Run them in separate batches.')


def _in_front(conditioning: Conditioning) -> bool:
  """Returns True if the conditioning may come before the rows, so that a row without it needs one of length 0."""
  in_rows = all(name in ('encoder.prompt', 'encoder.added') for name in _kind(conditioning))
  return not in_rows or not conditioning.encoder.visibility.input


def _of_length_zero(conditioning: Conditioning) -> Conditioning:
  return _over_arrays(lambda axes, array: jax.lax.slice_in_dim(array, 0, 0, axis=axes[1]), [conditioning])


def _joined(found: Sequence[Conditioning]) -> Conditioning:
  """Returns one Conditioning of several of one kind, N at once, padded to the longest."""
  if len(found) == 1:
    return found[0]

  def join(axes: tuple[int, int], *arrays: Array) -> Array:
    longest = max(array.shape[axes[1]] for array in arrays)
    widths = lambda array: [(0, longest - size if axis == axes[1] else 0) for axis, size in enumerate(array.shape)]
    return jnp.concatenate([jnp.pad(array, widths(array)) for array in arrays], axis=axes[0])

  lengths = lambda stack: jnp.array([_length(_stacks(each)[stack]) for each in found])
  return Conditioning(**{stack: dataclasses.replace(given, lengths=lengths(stack)) if given.given() else given
                         for stack, given in _stacks(_over_arrays(join, found)).items()})


def _over_arrays(function: Any, found: Sequence[Conditioning]) -> Conditioning:
  """Returns the first Conditioning with every array replaced by `function(axes of N and P, array of each)`."""
  made = {}
  for stack, given in _stacks(found[0]).items():
    fields = {name: jax.tree.map(lambda *arrays, axes=_AXES[name]: function(axes, *arrays),
                                 *(getattr(_stacks(each)[stack], name) for each in found)) for name in given.given()}
    made[stack] = dataclasses.replace(given, **fields)
  return Conditioning(**made)


def _length(given: StackConditioning) -> int:
  """Returns P; raises ValueError if the prefixes of a stack have different lengths."""
  found = {array.shape[_AXES[name][1]] for name in given.given() for array in jax.tree.leaves(getattr(given, name))}
  if len(found) > 1:
    raise ValueError(f'The conditioning of a row has the lengths {sorted(found)} in one stack. Use one length, or run '
                     'such rows in a separate batch.')
  return found.pop() if found else 0
