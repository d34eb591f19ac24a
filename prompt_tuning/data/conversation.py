"""The question of a conversation: what the model reads before it writes a turn, as tokens that know their turns."""

import bisect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.messages import SYSTEM, Message, leading
from prompt_tuning.data.templates import Filled
from prompt_tuning.rows.turns import Turns


class Conversation(Turns):
  """The tokens of the turns so far, and of the beginning of the assistant's turn.

  Args:
    chat: the `ChatFormat`.
    messages: of `read_messages`.
    where: where they come from, for messages of errors.
    cut: the side at which the user's last text is cut if nothing else can be removed.

  Attributes:
    text: what the template writes.

  Raises:
    ValueError: the template cannot write the messages.
  """

  def __init__(self, chat: Any, messages: Sequence[Message], where: str, cut: str = 'right'):
    self._chat, self._messages, self._cut = chat, tuple(messages), cut
    self._trained: tuple[int, ...] = ()
    self._closing: tuple[int, ...] = ()
    self.text, self._marked = chat.render(messages, where, add_generation_prompt=True)
    super().__init__(chat.tokens(self.text, (), where)[0], where=where)

  def __repr__(self) -> str:
    return f'Conversation({self.text!r}, trained turns {list(self._trained)})'

  def train(self, turns: Sequence[int], closing: Sequence[int]) -> None:
    """Gives weights to turns of the assistant.

    Args:
      turns: the indices of their messages.
      closing: the tokens from the end of a turn's text to its end token, which are trained too.

    Raises:
      ValueError: a turn cannot be told from the rest.
    """
    self._trained, self._closing = tuple(turns), tuple(closing)
    _, spans = self._chat.tokens(self.text, list(map(self._span, turns)), self.where)
    self.weights = np.zeros(len(self), np.float32)
    for first, end in spans:
      closed = tuple(self.ids[end:end + len(closing)].tolist()) == self._closing
      self.weights[first:end + len(closing) * closed] = 1.0

  def start(self, role: str) -> int:
    """Returns the number of tokens before the text of the first turn of a role; see `Turns`."""
    turn = next((i for i, each in enumerate(self._messages) if each['role'] in _roles(role)), None)
    if turn is not None and role not in self._starts:
      first, _ = self._around(turn)
      if first is None:
        raise ValueError(f'{self.where}: prompt_at={role} cannot be used: what the chat template of '
                         f'{self._chat.template.path} writes before the turn of the {role} depends on its text. Choose '
                         'another place of the prompt.')
      _, ((self._starts[role], _),) = self._chat.tokens(self.text, [(first, first)], self.where)
    return super().start(role)

  def shortened(self, fits: Callable[['Conversation'], bool]) -> 'Conversation':
    """Returns the conversation without its oldest turns, from a turn of the user on; the system's are kept.

    If the last turn of the user is still too long, its text is cut.

    Raises:
      ValueError: nothing of that text is left.
    """
    kept = leading(self._messages, SYSTEM)
    users = [i for i, each in enumerate(self._messages) if each['role'] == 'user']
    later = lambda which: self._with([*self._messages[:kept], *self._messages[users[which]:]], users[which] - kept)
    which = bisect.bisect_left(range(len(users) - 1), True, key=lambda which: fits(later(which)))
    found = later(which)
    if fits(found):
      return found
    system, (user, *rest) = found._messages[:kept], found._messages[kept:]
    cut = lambda text: self._with([*system, {**user, 'content': text}, *rest], users[which] - kept)
    text = Filled(('', user['content'], ''), self._cut).shortened(lambda text: fits(cut(text)))
    if text is None:
      self.require_length(len(cut('')) - 1)
    return cut(text)

  def require_length(self, length: int) -> None:
    """Raises ValueError if more than `length` tokens are left when all is cut that can be."""
    kept, users = leading(self._messages, SYSTEM), [each for each in self._messages if each['role'] == 'user']
    last = max(i for i, each in enumerate(self._messages) if each is users[-1])
    least = self._with([*self._messages[:kept], {**users[-1], 'content': ''}, *self._messages[last + 1:]], last)
    if len(least) > length:
      raise ValueError(f'{self.where}: without its oldest turns and the text of the last turn of the user, the '
                       f'conversation still has {len(least)} tokens. Increase max_input_length=.')

  def _with(self, messages: Sequence[Message], removed: int) -> 'Conversation':
    """Returns the conversation with other messages, before which some were removed."""
    made = Conversation(self._chat, messages, self.where, self._cut)
    if self.weights is not None:
      kept = leading(messages, SYSTEM)
      made.train([turn - removed for turn in self._trained if turn - removed > kept], self._closing)
    return made

  def _span(self, turn: int) -> tuple[int, int]:
    """Returns the first and the end character of what the assistant writes in one turn."""
    own = [i for i, each in enumerate(self._messages) if each['role'] == 'assistant']
    if len(self._marked) == len(own):  # the template marks it
      return self._marked[own.index(turn)]
    first, end = self._around(turn)
    asked = self._chat.render(self._messages[:turn], self.where, add_generation_prompt=True).text
    first = len(asked) if self.text.startswith(asked) else first
    if first is None or end is None or not self.text[first:end].strip():
      raise ValueError(f'{self.where}: turn {turn} cannot be told from the rest of what the chat template of '
                       f'{self._chat.template.path} writes, so it cannot be trained. Give train_on=last, or mark the '
                       "assistant's text in the template by {% generation %}.")
    return first, end

  def _around(self, turn: int) -> tuple[int | None, int | None]:
    return self._chat.around(self._messages, turn, self.text, self.where, add_generation_prompt=True)


def _roles(role: str) -> tuple[str, ...]:
  return SYSTEM if role == 'system' else (role,)
