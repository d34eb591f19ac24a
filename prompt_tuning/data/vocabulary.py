"""What all vocabularies have in common.

Every vocabulary has
  encode(text) -> list of ids, without the end token,
  decode(ids) -> text up to the first end token,
  piece(id) -> how the vocabulary's file writes a token; of a single byte, <0xE2>,
  size, pad_id, bos_id (None if the model has none), eos_id, which ends training targets,
  end_ids, all ids that end a generation: instruction-tuned models have several,
  mask_id, of encoders: the token that stands for one that is to be filled in; others may lack it,
  start, the ids that the model's tokenizer prepends to a text; callers that encode an input add them.
Two vocabularies are equal if they read the same file content in the same way. All can be pickled.
"""

import hashlib
import itertools
from collections.abc import Container, Iterable, Sequence
from typing import Any, Protocol

from absl import logging

from prompt_tuning.data.added_tokens import AddedToken
from prompt_tuning.files import hub


class Vocabulary(Protocol):
  """The interface that the rest of the package uses."""

  size: int
  pad_id: int
  eos_id: int
  end_ids: tuple[int, ...]
  bos_id: int | None
  start: tuple[int, ...]

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without the end token."""

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids` up to the first end token."""

  def piece(self, token: int) -> str:
    """Returns how the vocabulary's file writes a token."""


class FileVocabulary:
  """A vocabulary read from one file: pickled with the content, compared by digest and special tokens.

  Attributes:
    path: the file.
    digest: SHA-256 of its content.
    added: text -> id of the tokens that are matched in a text, in addition to the file's own.
  """

  def __init__(self, path: str, content: bytes, settings: dict):
    self.path = str(path)
    self.digest = hashlib.sha256(content).hexdigest()
    self.added: dict[str, int] = {}
    self._content = content
    self._settings = settings
    self._open()

  def _open(self) -> None:
    raise NotImplementedError

  def _report(self, token: AddedToken, found: int) -> None:
    """Logs that a token has another id than the files of the folder state, or that they state none."""
    if token.id is None and found >= self.size:
      logging.warning('%s: no file gives the token %r an id. It gets %d, the next free one.', self.path, token.content,
                      found)
    elif token.id not in (None, found):
      logging.warning('%s: the token %r has the id %d, not %d as another file of the folder says.', self.path,
                      token.content, found, token.id)

  @property
  def end_ids(self) -> tuple[int, ...]:
    """The tokens that end a generation, `eos_id` first."""
    return tuple(dict.fromkeys((self.eos_id, *self._settings['ends'])))

  def __getstate__(self) -> dict:
    return {'path': self.path, 'digest': self.digest, '_content': self._content, '_settings': self._settings}

  def __setstate__(self, state: dict) -> None:
    self.__dict__.update(state, added={})
    self._open()

  def __eq__(self, other: object) -> bool:
    read = lambda each: (each.digest, each.size, each.pad_id, each.end_ids, each.bos_id, each.start, each.added)
    return type(other) is type(self) and read(other) == read(self)

  def __hash__(self) -> int:
    return hash(self.digest)

  def __repr__(self) -> str:
    return f'{type(self).__name__}({(hub.id_of(self.path) or self.path)!r})'


def started(ids: Sequence[int], vocabulary: Any) -> list[int]:
  """Returns the ids of an input after the vocabulary's begin tokens, unless it begins with them already."""
  start = list(getattr(vocabulary, 'start', ()))
  return list(ids) if list(ids[:len(start)]) == start else [*start, *ids]


def require_whole(text: str, where: str = '') -> None:
  """Raises ValueError if a text has a half of a character, a surrogate, which no vocabulary has tokens for.

  Args:
    text: the text.
    where: the start of the message.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    before, half = text[max(0, error.start - 20):error.start], text[error.start]
    place = f'after {before!r}' if before else 'at its start'
    raise ValueError(f'{where}A text has half of a character (the surrogate {half!r}) {place}: it was cut within a '
                     'character, or is not UTF-8. Repair or remove it.') from error


def until_end(ids: Iterable[int], end_ids: Container[int]) -> list[int]:
  """Returns the ids up to the first end token."""
  return list(itertools.takewhile(lambda i: i not in end_ids, map(int, ids)))
