"""A text that the teacher reads before each question, and how questions and answers stand in the rows of both.

The teacher reads text, question and answer; the student reads only question and answer. With a chat template, the text
is the turn of the system (or, if the template has none, the start of the user's turn), the question the user's turn and
the answer the assistant's. Without one, the three follow one another. Token ids are read as they are.
"""

import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any

from prompt_tuning.data import vocabulary as vocabularies
from prompt_tuning.data.chat_template import NoTemplate
from prompt_tuning.data.messages import read_messages
from prompt_tuning.models.language_model import LanguageModel

PLAIN = 'Question: {question}\nAnswer:'
Text = str | Sequence[int]


class Reading:
  """A text as a model reads it.

  Args:
    model: a decoder-only model with a vocabulary.
    text: the text, or its token ids.
    template: what stands around a question, instead of the model's chat template.

  Raises:
    ValueError: the chat template cannot write the text.
  """

  def __init__(self, model: LanguageModel, text: Text, template: str | None = None):
    self._model, self._words, self.text = model, model.vocabulary, text
    self._chat = None
    if isinstance(text, str) and template is None:
      try:
        self._chat = model.chat_format
      except NoTemplate:
        text = f'{text}\n\n'
    self._template = template or (PLAIN if isinstance(text, str) else '{question}')
    self._begin = vocabularies.started(self._words.encode(text), self._words) if isinstance(text, str) else [
      int(i) for i in text]

  @functools.cached_property
  def ids(self) -> list[int]:
    """The tokens that the teacher reads before every question."""
    if self._chat is None:
      return self._begin
    same = lambda pair: pair[0] == pair[1]
    return [token for token, _ in itertools.takewhile(same, zip(self.asked('A'), self.asked('9'), strict=False))]

  @property
  def tokens(self) -> int:
    """The number of tokens of the text alone."""
    return len(self._words.encode(self.text)) if isinstance(self.text, str) else len(self.text)

  @property
  def ends(self) -> list[str]:
    """The texts that end an answer, in addition to end tokens: a model without a chat template would ask itself."""
    return ['\n'] if self._template == PLAIN and self._chat is None else []

  def asked(self, question: Text) -> list[int]:
    """Returns the tokens that the teacher reads before its answer."""
    if self._chat is None:
      return [*self._begin, *self._question(question)]
    return list(self._chat.question(self._messages(self._require_text(question)), 'A question'))

  def plain(self, question: Text) -> list[int]:
    """Returns the tokens that the student reads before its answer."""
    if self._chat is not None:
      return list(self._chat.question([{'role': 'user', 'content': self._require_text(question)}], 'A question'))
    ids = self._question(question)
    return vocabularies.started(ids, self._words) if isinstance(question, str) else ids

  def answer(self, question: Text, answer: Text) -> tuple[list[int], int]:
    """Returns the tokens of a given answer, and its end token."""
    words = self._words
    if not isinstance(answer, str):
      return vocabularies.until_end(answer, words.end_ids), words.eos_id
    if self._chat is None:
      blank = ' ' if self._template == PLAIN and not answer[:1].isspace() else ''
      return list(words.encode(f'{blank}{answer}')), words.eos_id
    messages = [{'role': 'user', 'content': self._require_text(question)}, {'role': 'assistant', 'content': answer}]
    found = self._chat.example(read_messages(messages, 'An answer'), where='An answer')
    return found['targets'].tolist(), found.get('targets_end', words.eos_id)

  def request(self, instruction: str) -> tuple[list[int], list[str]]:
    """Returns what the model reads to ask a question about the text itself, and the texts that end its question."""
    if self._chat is not None:
      return self.asked(f'{instruction} Write only the question.'), []
    if self._template == PLAIN:
      return [*self._begin, *self._words.encode(f'{instruction}\nQuestion:')], ['\n']
    return [*self._begin, *self._words.encode(instruction)], ['\n']

  def _question(self, question: Text) -> list[int]:
    if not isinstance(question, str):
      return list(question)
    return list(self._words.encode(self._template.replace('{question}', question)))

  def _require_text(self, question: Text) -> str:
    if not isinstance(question, str):
      raise ValueError(f'The question {question!r:.60} is token ids, but the document is a text, which the chat '
                       'template writes. Give texts for both, or token ids for both.')
    return question

  def _messages(self, question: str) -> list[dict[str, str]]:
    if self._has_system:
      return [{'role': 'system', 'content': self.text}, {'role': 'user', 'content': question}]
    return [{'role': 'user', 'content': f'{self.text}\n\n{question}'}]

  @functools.cached_property
  def _has_system(self) -> bool:
    """Whether the chat template writes a turn of the system."""
    messages = [{'role': 'system', 'content': 'SYSTEM'}, {'role': 'user', 'content': 'USER'}]
    try:
      return 'SYSTEM' in self._chat.question(messages, 'A question').text
    except ValueError:
      return False


def pieces(text: Text, length: int, vocabulary: Any) -> list[Text]:
  """Returns a text, or token ids, in equal consecutive parts of at most about `length` tokens, cut between words."""
  if not isinstance(text, str):
    count = max(1, -(-len(text) // length))
    return [list(text[len(text) * i // count:len(text) * (i + 1) // count]) for i in range(count)]
  words = re.findall(r'\s*\S{1,40}', text) or [text]  # not all languages have blanks
  ends, total = [], 0
  for word in words:
    total += max(1, len(vocabulary.encode(word)))
    ends.append(total)
  count = max(1, -(-total // length))
  parts = [[] for _ in range(count)]
  for word, end in zip(words, ends, strict=True):
    parts[min(count - 1, (end - 1) * count // total)].append(word)
  return [''.join(part).strip() for part in parts if part]
