"""Vocabularies: text to token ids and back. The only file that imports sentencepiece and tokenizers.

Every vocabulary has
  encode(text) -> list of ids, without the end token,
  decode(ids) -> text up to the first end token,
  size, pad_id, bos_id (None if the model has none), eos_id, which ends training targets,
  end_ids, all ids that end a generation: instruction-tuned models have several,
  start, the ids that the model's tokenizer prepends to a text; callers that encode an input add them.
Two vocabularies are equal if they read the same file content in the same way. All can be pickled.
"""

import hashlib
import itertools
import json
from collections.abc import Container, Iterable
from typing import Protocol

from prompt_tuning.files import storage

_SPECIALS = {'pad_token': '<pad>', 'eos_token': '</s>'}
_USER_DEFINED = 4  # SentencePiece's type of pieces that are matched verbatim


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


class _FileVocabulary:
  """A vocabulary read from one file: pickled with the content, compared by digest and special tokens.

  Attributes:
    path: the file.
    digest: SHA-256 of its content.
  """

  def __init__(self, path: str, content: bytes, settings: dict):
    self.path = str(path)
    self.digest = hashlib.sha256(content).hexdigest()
    self._content = content
    self._settings = settings
    self._open()

  def _open(self) -> None:
    raise NotImplementedError

  @property
  def end_ids(self) -> tuple[int, ...]:
    """The tokens that end a generation, `eos_id` first."""
    return tuple(dict.fromkeys((self.eos_id, *self._settings['ends'])))

  def __getstate__(self) -> dict:
    return {'path': self.path, 'digest': self.digest, '_content': self._content, '_settings': self._settings}

  def __setstate__(self, state: dict) -> None:
    self.__dict__.update(state)
    self._open()

  def __eq__(self, other: object) -> bool:
    read = lambda each: (each.digest, each.size, each.pad_id, each.end_ids, each.bos_id, each.start)
    return type(other) is type(self) and read(other) == read(self)

  def __hash__(self) -> int:
    return hash(self.digest)

  def __repr__(self) -> str:
    return f'{type(self).__name__}({self.path!r})'


class SentencePieceVocabulary(_FileVocabulary):
  """A SentencePiece model with T5's sentinels `<extra_id_0>`, … as its last ids, in descending order.

  Args:
    path: the model file, local or `gs://`.
    extra_ids: the number of sentinels; those missing from the file are appended to its pieces.
    starts: an input begins with the begin token.
    ends: ids of additional tokens that end a generation.
  """

  def __init__(self, path: str, extra_ids: int = 100, starts: bool = False, ends: Iterable[int] = ()):
    super().__init__(path, storage.read_bytes(path), {'extra_ids': extra_ids, 'starts': starts, 'ends': tuple(ends)})

  def _open(self) -> None:
    import sentencepiece

    # Protobuf merges fields appended to a serialised message into it: here, more pieces.
    sentinels = [f'▁<extra_id_{i}>'.encode() for i in reversed(range(self._settings['extra_ids']))]
    added = b''.join(_piece(sentinel) for sentinel in sentinels if sentinel not in self._content)
    self._model = sentencepiece.SentencePieceProcessor()
    try:
      self._model.LoadFromSerializedProto(self._content + added)
    except RuntimeError as error:
      raise ValueError(f'{self.path} is not a SentencePiece model (found {len(self._content)} bytes that start with '
                       f'{self._content[:8]!r}). Give the path of a .model file.') from error
    self.size = self._model.GetPieceSize()
    self.eos_id = self._model.eos_id()
    self.pad_id = max(0, self._model.pad_id())
    self.bos_id = None if self._model.bos_id() < 0 else self._model.bos_id()
    self.start = (self.bos_id,) if self._settings['starts'] and self.bos_id is not None else ()

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without the end token."""
    return self._model.EncodeAsIds(text)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids` up to the first end token; an id outside the vocabulary is an unknown piece."""
    unknown = self._model.unk_id()
    return self._model.DecodeIds([i if 0 <= i < self.size else unknown for i in until_end(ids, self.end_ids)])


class TokenizersVocabulary(_FileVocabulary):
  """A `tokenizer.json` of the tokenizers library. The special tokens that it prepends to a text are `start`.

  Args:
    path: the file, local or `gs://`.
    eos: text or id of the end token.
    pad: text of the padding token; None if the model has none: the end token's id is used.
    bos: text of the begin token; None if the model has none.
    ends: ids of additional tokens that end a generation.
  """

  def __init__(self, path: str, eos: str | int = '</s>', pad: str | None = '<pad>', bos: str | None = None,
               ends: Iterable[int] = ()):
    super().__init__(path, storage.read_bytes(path), {'eos': eos, 'pad': pad, 'bos': bos, 'ends': tuple(ends)})

  def _open(self) -> None:
    import tokenizers

    try:
      self._tokenizer = tokenizers.Tokenizer.from_buffer(self._content)
    except Exception as error:  # the library raises plain exceptions
      raise ValueError(f'{self.path} is not a tokenizer file ({error}). '
                       'Give the path of a tokenizer.json file of the tokenizers library.') from error
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    # Some published tokenizers add tokens without an embedding in the model (Gemma 3 1B, Code Llama): not counted.
    self.size = self._tokenizer.get_vocab_size(with_added_tokens=False)
    self.eos_id = self._id('eos')
    self.pad_id = self.eos_id if self._settings['pad'] is None else self._id('pad')
    self.bos_id = None if self._settings['bos'] is None else self._id('bos')
    plain, whole = self.encode('a'), self._tokenizer.encode('a').ids
    places = [i for i in range(len(whole)) if plain and whole[i:i + len(plain)] == plain]
    self.start = tuple(whole[:places[0]]) if places else ()

  def _id(self, role: str) -> int:
    token = self._settings[role]
    found = self._tokenizer.token_to_id(token) if isinstance(token, str) else token
    if found is None or self._tokenizer.id_to_token(found) is None:
      raise ValueError(f'{self.path} has no token for {role}={token!r}. '
                       f'Set {role} to one of the tokens in the file.')
    return found

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without the end token."""
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids` up to the first end token."""
    hidden = {self.pad_id, self.bos_id, *self.start}
    return self._tokenizer.decode([i for i in until_end(ids, self.end_ids) if i not in hidden],
                                  skip_special_tokens=False)


class PassThroughVocabulary:
  """For models without a tokenizer: texts are token ids separated by spaces.

  Attributes:
    size: ids are 0..size − 1.
    pad_id, eos_id: T5's by default.
  """

  bos_id, start = None, ()

  def __init__(self, size: int, eos_id: int = 1, pad_id: int = 0):
    self.size, self.eos_id, self.pad_id, self.end_ids = size, eos_id, pad_id, (eos_id,)

  def encode(self, text: str) -> list[int]:
    """Returns the ids that the text spells, without the end token."""
    try:
      ids = [int(word) for word in text.split()]
    except ValueError as error:
      raise ValueError(f'The text {text[:40]!r} is not a list of token ids separated by spaces. Write ids, or '
                       "use the model's tokenizer file as vocabulary.") from error
    wrong = [i for i in ids if not 0 <= i < self.size]
    if wrong:
      raise ValueError(f'The text has the token ids {wrong[:5]}, but the vocabulary has 0..{self.size - 1}. '
                       'Write only ids of the vocabulary.')
    return ids

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the ids up to the first end token as text, without padding."""
    return ' '.join(str(i) for i in until_end(ids, self.end_ids) if i != self.pad_id)

  def __eq__(self, other: object) -> bool:
    return type(other) is type(self) and vars(other) == vars(self)

  def __hash__(self) -> int:
    return hash((self.size, self.eos_id, self.pad_id))

  def __repr__(self) -> str:
    return f'PassThroughVocabulary({self.size})'


def train_tokenizer(texts: Iterable[str], size: int) -> dict[str, str]:
  """Trains a byte-level BPE on `texts` and returns its files, name -> content; it can encode any other text too.

  `<pad>` is 0 and `</s>`, the end token, is 1. Pairs that occur only once are not merged, so the vocabulary may be
  smaller than `size`.

  Raises:
    ValueError: `size` is too small for all bytes.
  """
  import tokenizers

  least = len(_SPECIALS) + 256
  if size < least:
    raise ValueError(f'size={size} is too small for a tokenizer: bytes and special tokens take {least} ids. '
                     'Use a larger size.')
  bytewise = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer, tokenizer.decoder = bytewise, tokenizers.decoders.ByteLevel()
  tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
    vocab_size=size, min_frequency=2, special_tokens=list(_SPECIALS.values()),
    initial_alphabet=bytewise.alphabet(), show_progress=False))
  return {'tokenizer.json': tokenizer.to_str(pretty=True) + '\n',
          'tokenizer_config.json': json.dumps(_SPECIALS, indent=1) + '\n'}


def until_end(ids: Iterable[int], end_ids: Container[int]) -> list[int]:
  """Returns the ids up to the first end token."""
  return list(itertools.takewhile(lambda i: i not in end_ids, map(int, ids)))


def _piece(name: bytes) -> bytes:
  """Returns one user-defined piece as a serialised field of SentencePiece's ModelProto."""
  # Fields of the piece: 1 is its text, 3 its type; the score, field 2, is 0 by default.
  piece = bytes([1 << 3 | 2, len(name)]) + name + bytes([3 << 3, _USER_DEFINED])
  return bytes([1 << 3 | 2, len(piece)]) + piece  # field 1 of the model: pieces
