"""Placements: the position of a prompt among the tokens of an input.

A placement is a function `(number of tokens T, P) -> slots [T + P]`: -1 for a token, else the index into the prompt.
Those of conversations depend on the turns of each row, and get the tokens themselves as a third argument.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from prompt_tuning.rows.turns import Turns

Placement = Callable[..., np.ndarray]


def before(count: int, length: int) -> np.ndarray:
  """Puts the prompt before the text. Returns the slots `[length + count]`."""
  return _insert(count, length, 0)


def after_bos(count: int, length: int) -> np.ndarray:
  """Puts the prompt after the first token."""
  return _insert(count, length, min(1, count))


def before_eos(count: int, length: int) -> np.ndarray:
  """Puts the prompt before the last token of each row."""
  return _insert(count, length, max(0, count - 1))


def after_eos(count: int, length: int) -> np.ndarray:
  """Puts the prompt after the last token of each row."""
  return _insert(count, length, count)


def at_system(count: int, length: int, inputs: Any = None) -> np.ndarray:
  """Puts the prompt before the text of a conversation's system turn, after the turn's header."""
  return _at('system', count, length, inputs)


def at_user(count: int, length: int, inputs: Any = None) -> np.ndarray:
  """Puts the prompt before the text of a conversation's first user turn, after the turn's header."""
  return _at('user', count, length, inputs)


PLACEMENTS: Mapping[str, Placement] = {f.__name__: f for f in (before, after_bos, before_eos, after_eos)}
IN_TURNS: Mapping[str, Placement] = {'system': at_system, 'user': at_user}  # role of the turn -> placement
# What a file of a prompt may name.
SAVED: Mapping[str, Placement] = PLACEMENTS | {f.__name__: f for f in IN_TURNS.values()}


def place(placement: Placement, inputs: Any, length: int, *, started: bool = False) -> np.ndarray:
  """Returns the slots of a prompt among the tokens of an input, see above.

  Args:
    placement: one of those above, or another function.
    inputs: the tokens [T].
    length: P.
    started: one more token comes before them.

  Raises:
    ValueError: the placement needs a turn that the input does not have.
  """
  return placement(len(inputs) + started, length, *((inputs,) if placement in IN_TURNS.values() else ()))


def _at(role: str, count: int, length: int, inputs: Any) -> np.ndarray:
  if length == 0:
    return before(count, 0)
  if not isinstance(inputs, Turns):
    raise ValueError(f'prompt_at={role} cannot be used: the prompt stands in a turn of a conversation, but an input is '
                     'a plain text or token ids. Give rows with messages (in Python model.chat), or use a prompt that '
                     'was trained with prompt_at=start.')
  return _insert(count, length, inputs.start(role) + count - len(inputs))


def _insert(count: int, length: int, at: int) -> np.ndarray:
  slots = np.full(count + length, -1, np.int32)
  slots[at:at + length] = np.arange(length)
  return slots
