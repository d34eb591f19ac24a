"""How a model's conversations become tokens and examples: its chat template and its vocabulary.

An example is a question, see `Conversation`, and what follows it in the template's rendering of the whole: the text of
the assistant's turn, as the template rewrites it, and the token that ends it.

The text of a turn is found by rendering the conversation again with another text in its place: what both renderings
have in common is around the turn, whatever the template does to its text.
"""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from prompt_tuning.data.chat_template import ChatTemplate
from prompt_tuning.data.conversation import Conversation
from prompt_tuning.data.messages import Message, are_messages, read_messages
from prompt_tuning.data.tasks import Example

_MARK = 'TURN'


@dataclasses.dataclass(frozen=True)
class ChatFormat:
  """How a model's conversations become tokens.

  Attributes:
    template: writes them as text.
    vocabulary: the model's.
  """

  template: ChatTemplate
  vocabulary: Any

  @classmethod
  def of(cls, vocabulary: Any) -> 'ChatFormat':
    """Returns the format of the folder that a vocabulary was read from.

    Raises:
      ValueError: it was not read from a folder with a chat template.
    """
    if vocabulary is None:
      raise ValueError('A conversation needs a vocabulary, and the chat template in its folder. Give '
                       'vocabulary=model.vocabulary, or load the model with its vocabulary.')
    path = str(getattr(vocabulary, 'path', ''))
    return cls(ChatTemplate.read(path and (path.rpartition('/')[0] or '.')), vocabulary)

  def render(self, messages: Sequence[Message], where: str, **how: Any) -> Any:
    """Returns `ChatTemplate.render`'s text and spans; messages of ValueErrors begin with `where`."""
    try:
      return self.template.render(messages, **how)
    except ValueError as error:
      raise ValueError(f'{where}: {error}') from error

  def tokens(self, text: str, parts: Sequence[tuple[int, int]], where: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns the ids of a text, and where some of its parts are among them.

    A token that is only partly in a part belongs to it.

    Args:
      text: the text.
      parts: the first and the end character of each part.
      where: for messages.

    Returns:
      The ids, and the first and the end token of each part.

    Raises:
      ValueError: the vocabulary does not say which characters a token was made of, and one spans a border.
    """
    if hasattr(self.vocabulary, 'encode_with_places'):
      ids, places = self.vocabulary.encode_with_places(text)
      firsts, ends = [first for first, _ in places], [end for _, end in places]
      return ids, [(bisect.bisect_right(ends, first), bisect.bisect_left(firsts, end)) for first, end in parts]
    ids = self.vocabulary.encode(text)

    def border(place: int) -> int:
      before = self.vocabulary.encode(text[:place])
      if before != ids[:len(before)]:
        raise ValueError(f'{where}: a token spans the border of a turn after {text[max(0, place - 20):place]!r}, and '
                         f'{self.vocabulary} does not tell where. Use a tokenizer.json of the model.')
      return len(before)

    return ids, [(border(first), border(end)) for first, end in parts]

  def question(self, messages: Sequence[Mapping[str, Any]], where: str = 'The conversation') -> Conversation:
    """Returns the tokens of a conversation and of the beginning of the assistant's next turn.

    Args:
      messages: turns with 'role' and 'content', the last of which is not the assistant's.
      where: where they come from, for messages of errors.

    Raises:
      ValueError: something is no message, or the template cannot write it.
    """
    found = read_messages(messages, where)
    if found[-1]['role'] == 'assistant':
      raise ValueError(f"{where} ends with the assistant's turn, so there is nothing to answer. Add the user's next.")
    return Conversation(self, found, where)

  def questions(self, messages: Any) -> list[Conversation]:
    """Returns the question of one conversation, or of each of a list of them. Raises ValueError as `question` does."""
    if not isinstance(messages, list | tuple) or not messages:
      raise ValueError(f'messages={messages!r:.60} cannot be used: expected a list of messages, or of conversations.')
    chats = [messages] if are_messages(messages) else messages
    return [self.question(each, f'Conversation {i}') for i, each in enumerate(chats)]

  def example(self, messages: Sequence[Message], *, where: str, first: int = 0, train_on: str = 'all',
              cut: str = 'right') -> Example:
    """Returns the example of a conversation that ends with the assistant's turn; see `tasks`.

    Args:
      messages: of `read_messages`.
      where: where they come from, for messages of errors.
      first: the index of the first message that may be trained.
      train_on: the turns of the assistant that are trained: 'all', or the 'last'.
      cut: see `Conversation`.

    Raises:
      ValueError: the template cannot write them, or a turn cannot be told from the rest.
    """
    last = len(messages) - 1
    if messages[last]['role'] != 'assistant':
      raise ValueError(f'{where}: the last turn is of the {messages[last]["role"]}, but an example ends with the '
                       "assistant's, which is learnt. Add it, or remove the turns after the assistant's last.")
    asked, whole = Conversation(self, messages[:last], where, cut), self.render(messages, where).text
    begin, (_, end) = len(asked.text), self.around(messages, last, whole, where)
    if not whole.startswith(asked.text):
      at = next((i for i, (a, b) in enumerate(zip(whole, asked.text, strict=False)) if a != b), len(whole))
      raise ValueError(f"{where}: the chat template of {self.template.path} begins the assistant's turn with "
                       f'{whole[at:at + 30]!r}, but the prompt of a generation with {asked.text[at:at + 30]!r}: what '
                       'is learnt would not be what is asked for. Change the template so that both begin alike.')
    if end is None or not whole[begin:end].strip():
      raise ValueError(f"{where}: the text of the assistant's last turn is not in what the chat template of "
                       f'{self.template.path} writes, {whole[begin:begin + 60]!r}. Repair the text or the template.')
    ids, ((_, after),) = self.tokens(whole, [(0, end)], where)
    if ids[:len(asked)] != list(asked):  # a token spans the border, but the model is asked with whole tokens
      ids = [*asked, *self.vocabulary.encode(whole[begin:])]
      after = len(asked) + len(self.vocabulary.encode(whole[begin:end]))
    stop = next((i for i in range(after, len(ids)) if ids[i] in self.vocabulary.end_ids), None)
    ending = {} if stop is None else {'targets_end': ids[stop]}
    closed = self._end_of_closing(ids, after, whole[end:]) if stop is None else stop + 1
    earlier = [i for i in range(first, last) if messages[i]['role'] == 'assistant']
    if train_on == 'all' and earlier:
      asked.train(earlier, ids[after:closed])
    targets = np.asarray(ids[len(asked):closed if stop is None else stop], np.int32)
    return {'inputs': asked, 'inputs_ends': False, 'targets': targets, **ending, 'inputs_pretokenized': asked.text,
            'targets_pretokenized': self.vocabulary.decode(targets.tolist())}

  def around(self, messages: Sequence[Message], turn: int, text: str, where: str,
             **how: Any) -> tuple[int | None, int | None]:
    """Returns the first and the end character of a turn's text; None where what is around it depends on the text.

    Args:
      messages: the conversation.
      turn: the index of the turn.
      text: its rendering.
      where: for messages.
      how: as it was rendered.

    Raises:
      ValueError: the template leaves the turn out, or writes it several times.
    """
    mark = _MARK
    while any(mark in each['content'] for each in messages):
      mark += _MARK
    marked = self.render([{**each, 'content': mark} if i == turn else each for i, each in enumerate(messages)],
                         where, **how).text
    if marked.count(mark) != 1:
      raise ValueError(f'{where}: the chat template of {self.template.path} writes the text of turn {turn} '
                       f'{marked.count(mark)} times, expected once. Remove the turn, or repair the template.')
    before, _, after = marked.partition(mark)
    fits = len(before) + len(after) <= len(text)
    return (len(before) if fits and text.startswith(before) else None,
            len(text) - len(after) if text.endswith(after) else None)

  def _end_of_closing(self, ids: Sequence[int], after: int, text: str) -> int:
    """Returns the number of ids up to what closes a turn if that is no end token, and says so: it is predicted."""
    text = text.rstrip()
    if text:
      logging.log_first_n(
        logging.WARNING, "The chat template of %s ends the assistant's turns with %r, which ends no generation of this "
        'model: predictions hold it. If it is a token, add its id to eos_token_id in generation_config.json.', 1,
        self.template.path, text)
    return min(len(ids), after + len(self.vocabulary.encode(text)))
