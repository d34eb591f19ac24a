"""The prompts, prefixes and layer prompts of a batch's rows, gathered into one Conditioning."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import AXES, Conditioning, Frozen, StackConditioning, Visibility
from prompt_tuning.types import Array


class Use(NamedTuple):
  """What one row uses: the index of its prompts and prefixes among the batch's N, and its layout."""

  number: int
  layout: layouts.Layout


def collect_prompts(prompt: Any, count: int, model: Frozen) -> tuple[list[Use], Conditioning]:
  """Gathers the conditioning of a batch's rows.

  Args:
    prompt: one for all rows, a list with one (or None) for each, or None; see `language_model`.
    count: B.
    model: the frozen model.

  Returns:
    The `Use` of each row, and the Conditioning with the prompts and prefixes of all, each field padded to its longest.

  Raises:
    ValueError: a prompt does not fit the model, or two rows need different batches.
  """
  rows = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt] * count
  if len(rows) != count:
    raise ValueError(f'Found {len(rows)} prompts for {count} rows. Give one for each row (None for no prompt), '
                     'or a single one for all rows.')
  distinct: dict[int, Any] = {id(each): each for each in rows}
  found = {key: handed(each, model) for key, each in distinct.items()}
  if len(found) > 1:
    _require_joinable([given for _, given in found.values()])
  # A row without a prompt needs an entry (of length 0, or scales of 1) unless prompts are only among the tokens.
  in_front = any(_in_front(given) for _, given in found.values())
  entries = {key: given for key, (_, given) in found.items() if distinct[key] is not None or in_front}
  conditioning, numbers = joined(list(entries.values())), {key: number for number, key in enumerate(entries)}
  isolated = not getattr(conditioning, model.prompted).visibility.input
  uses = {key: Use(numbers.get(key, 0), dataclasses.replace(layout, isolated=isolated, cached=False))
          for key, (layout, _) in found.items()}
  return [uses[id(each)] for each in rows], conditioning


def handed(each: Any, model: Frozen) -> tuple[layouts.Layout, Conditioning]:
  """Returns the layout and conditioning of rows with a prompt, with tensors read from a file, or with None."""
  if each is None:
    return layouts.Layout(), Conditioning()
  if hasattr(each, 'members'):
    raise ValueError('An ensemble cannot be used here, since it needs several rows of a batch for each input: it is '
                     'not served, nor one prompt of a list. Give it to predict, score, logits or evaluate, alone.')
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


def _require_joinable(found: Sequence[Conditioning]) -> None:
  """Raises ValueError if rows with these cannot share one batch."""
  shared = sorted({name for each in found for name in each.parameters} |
                  {name for each in found for name in each.given() if name.endswith('.context')})
  if shared:
    raise ValueError(f'Found {", ".join(shared[:3])}{" …" * (len(shared) > 3)} for some rows, but all rows of a batch '
                     'share retrained parameters, low-rank updates and a context. Give them for all rows, or run such '
                     "rows in a separate batch, and such an ensemble with kind='vote'.")
  seen = {stack.visibility for each in found for stack in (each.encoder, each.decoder) if stack.prompt is not None}
  if len(seen) > 1:
    raise ValueError(f'The prompts of one batch have different visibility: {" and ".join(sorted(map(str, seen)))}. Run '
                     "them in separate batches, and such an ensemble with kind='vote'.")


def _in_front(conditioning: Conditioning) -> bool:
  """Returns True if the conditioning may come before the rows."""
  in_rows = all(name in ('encoder.prompt', 'encoder.added') for name in conditioning.given())
  return not in_rows or not conditioning.encoder.visibility.input


def part_of(conditioning: Conditioning, first: Array, count: int) -> Conditioning:
  """Returns `count` of the N entries of a Conditioning's fields, from `first` on."""
  take = lambda axis: lambda array: jax.lax.dynamic_slice_in_dim(array, first, count, axis)

  def of_stack(given: StackConditioning) -> StackConditioning:
    fields = {name: jax.tree.map(take(of_count), getattr(given, name)) for name, (of_count, _) in AXES.items()}
    return dataclasses.replace(given, **fields, lengths=jax.tree.map(take(0), given.lengths))

  return dataclasses.replace(conditioning, encoder=of_stack(conditioning.encoder),
                             decoder=of_stack(conditioning.decoder))


def joined(found: Sequence[Conditioning]) -> Conditioning:
  """Returns one Conditioning of several, N at once."""
  if len(found) < 2:
    return found[0] if found else Conditioning()
  return Conditioning(_joined_stack([each.encoder for each in found]), _joined_stack([each.decoder for each in found]),
                      kinds=tuple(sorted({each.given() for each in found})))


def _joined_stack(found: Sequence[StackConditioning]) -> StackConditioning:
  """Returns the fields of all; a stack without a field has an entry of length 0 there."""
  fields: dict[str, Any] = {}
  lengths: dict[str, Array] = {}
  for name in AXES:
    own, sizes = [getattr(each, name) for each in found], [each.longest(name) for each in found]
    if any(each is not None for each in own):
      longest = fields['prompt'].shape[1] if name == 'added' and 'prompt' in fields else max(sizes)
      fields[name], lengths[name] = _joined_field(name, own, longest), jnp.array(sizes)
  fields['scales'] = _joined_scales([each.scales or {} for each in found])
  visibility = next((each.visibility for each in found if each.prompt is not None), Visibility())
  return StackConditioning(**fields, visibility=visibility, lengths=lengths)


def _joined_scales(found: Sequence[Mapping[str, Array]]) -> dict[str, Array] | None:
  """Returns the scales of several stacks, N at once; 1 for a stack without them."""
  shapes = {name: array.shape for scales in found for name, array in scales.items()}
  return {name: jnp.concatenate([scales.get(name, jnp.ones(shape)) for scales in found], axis=1)
          for name, shape in shapes.items()} or None


def _joined_field(name: str, own: Sequence[Any], longest: int) -> Any:
  """Returns one field of several stacks (None: not set), N at once, each padded to the longest."""
  of_count, of_length = AXES[name]

  def join(*arrays: Array) -> Array:
    widths = lambda array: [(0, longest - size if axis == of_length else 0) for axis, size in enumerate(array.shape)]
    return jnp.concatenate([jnp.pad(array, widths(array)) for array in arrays], axis=of_count)

  nothing = jax.tree.map(lambda array: jax.lax.slice_in_dim(array, 0, 0, axis=of_length),
                         next(each for each in own if each is not None))
  return jax.tree.map(join, *(nothing if each is None else each for each in own))
