"""The tokens of a conversation, which know the turns that they belong to."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np


class Turns:
  """The token ids of a conversation, used wherever token ids of an input are.

  Args:
    ids: [T].
    starts: role, 'system' or 'user' -> the number of tokens before the text of its first turn.
    weights: [T], the loss weight of each token as a target: that of the assistant's turns within the input; None is 0.
    where: where the conversation comes from, for messages.

  Raises:
    ValueError: nothing predicts the first token, but it has a weight.
  """

  def __init__(self, ids: Any, starts: Mapping[str, int] | None = None, weights: Any = None, where: str = ''):
    self.ids = np.asarray(ids, np.int32)
    self._starts, self.weights, self.where = dict(starts or {}), weights, where
    if weights is not None and len(weights) and weights[0]:
      raise ValueError(f'{where or "A conversation"} begins with a token that is trained, but nothing predicts it. '
                       'Begin with a turn of the user.')

  def __len__(self) -> int:
    return len(self.ids)

  def __iter__(self) -> Iterator[int]:
    return iter(self.ids.tolist())

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.array(self.ids, dtype) if copy else np.asarray(self.ids, dtype)

  def shortened(self, fits: Callable[['Turns'], bool]) -> 'Turns':
    """Returns the conversation without some turns, so that it fits. Raises ValueError if that cannot be done."""
    raise ValueError(f'{self.where or "A conversation"} has {len(self)} tokens, which are too many, and it does not '
                     'know which can be removed. Increase max_input_length=, or make a Conversation of messages.')

  def start(self, role: str) -> int:
    """Returns the number of tokens before the text of the first turn of a role.

    Raises:
      ValueError: there is no such turn.
    """
    if role not in self._starts:
      raise ValueError(f'prompt_at={role} cannot be used: {self.where or "a conversation"} has no turn of the {role}. '
                       f'Begin it with one, or choose another place of the prompt.')
    return self._starts[role]
