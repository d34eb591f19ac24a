"""The positions before the rows of a decoder-only model, and whether the model has room for them."""

from typing import Any

from prompt_tuning.rows.conditioning import Conditioning, StackConditioning
from prompt_tuning.types import Batch


def prompt_in_front(batch: Batch, given: StackConditioning) -> bool:
  """Returns True if the prompt comes before the rows, which have no slots for it."""
  return given.prompt is not None and 'prompt_slots' not in batch['decoder']


def places_before(batch: Batch, conditioning: Conditioning) -> int:
  """Returns the most places that the keys and values before one row take."""
  given = conditioning.decoder
  in_front = ('prefix', 'layer_prompts', *(['prompt'] if prompt_in_front(batch, given) else []))
  taken = {f'decoder.{name}': given.longest(name) for name in in_front}
  of_context = 0 if given.context is None else given.context.keys.shape[3]
  return of_context + max(sum(taken.get(name, 0) for name in row) for row in conditioning.each_kind())


def require_order(batch: Batch, given: StackConditioning) -> None:
  """Ensures that each position may read all earlier ones, as it does through the state of delta layers.

  Raises:
    ValueError: the prompt may not see what precedes it.
  """
  hidden = [f'{name}=False' for name, found in (
    ('prompt', given.visibility.prompt), ('input', given.visibility.input or prompt_in_front(batch, given)))
    if not found and given.prompt is not None]
  if hidden:
    raise ValueError(f'A visibility of {" and ".join(hidden)} cannot be used: this model has delta layers (Gated '
                     'DeltaNet), through whose state every position reads all earlier ones. Use a prompt that sees the '
                     'input and its own vectors.')


def require_positions(config: Any, front: int, length: int, answer: int = 0) -> None:
  """Ensures that rows fit into a model's position table, or its rotary positions; JAX would not report it.

  Args:
    config: the model's; one whose positions have no limit fits all.
    front: positions before the rows.
    length: of a row.
    answer: generated positions after it.

  Raises:
    ValueError: they need more positions than the model has.
  """
  count = getattr(config, 'position_limit', 0)
  if count and front + length + answer > count:
    parts = ' + '.join(f'{number} of {what}' for number, what in (
      (front, 'prompt or prefix'), (length, 'text'), (answer, 'generation')) if number)
    of_table = getattr(config, 'position_count', 0) == count
    found = f'has a table of {count}' if of_table else f'scales its rotary positions for rows of {count}'
    longer = '' if of_table else f', or set rotary_length={front + length + answer} or more for long rows'
    raise ValueError(f'The rows need {front + length + answer} positions ({parts}), but the model {found}. Shorten the '
                     f'prompt, or the lengths of inputs and targets{longer}.')
