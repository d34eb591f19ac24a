"""SentencePiece models: T5's, with its sentinels, Llama's and Gemma's. The only file that imports sentencepiece."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from prompt_tuning.data.added_tokens import AddedToken, Splitter
from prompt_tuning.data.vocabulary import FileVocabulary, require_whole, until_end
from prompt_tuning.files import model_files

_USER_DEFINED = 4  # SentencePiece's type of pieces that are matched verbatim


class SentencePieceVocabulary(FileVocabulary):
  """A SentencePiece model with T5's sentinels `<extra_id_0>`, … as its last ids, in descending order.

  Args:
    path: the model file, local or `gs://`.
    extra_ids: the number of sentinels; those missing from the file are appended to its pieces.
    starts: an input begins with the begin token.
    ends: ids of additional tokens that end a generation.
    names: texts of the tokens 'eos', 'pad' and 'bos', if they are not the file's.
    added: tokens that are matched in a text, as control pieces and sentinels then are too, which is how transformers
      reads a file. None is SeqIO's way: only a sentinel after a blank is matched.
    spaces: the parts of a text that get the leading space that the file asks for: 'all'; or those without a space of
      their own, 'each' or only the 'first'; or 'none'. An added token divides a text into parts.
  """

  def __init__(self, path: str, extra_ids: int = 100, starts: bool = False, ends: Iterable[int] = (), *,
               names: dict[str, str] | None = None, added: Sequence[AddedToken] | None = None,
               spaces: str = 'all'):
    super().__init__(path, model_files.read_bytes(path), {
      'extra_ids': extra_ids, 'starts': starts, 'ends': tuple(ends), 'names': names or {}, 'added': added,
      'spaces': spaces})

  def _open(self) -> None:
    self._model = self._load()
    self.size = self._model.GetPieceSize()
    self._splitter, self._outside, names = None, {}, self._settings['names']
    if self._settings['added'] is not None:
      self._match(self._settings['added'])
    self.eos_id = self._id(names['eos']) if 'eos' in names else self._model.eos_id()
    if self.eos_id < 0:
      self.eos_id = next(iter(self._settings['ends']), -1)
    if self.eos_id < 0:
      raise ValueError(f'{self.path} has no end token, and no file of its folder names one. Name it as eos_token in '
                       'tokenizer_config.json.')
    self.pad_id = self._id(names['pad']) if 'pad' in names else self._model.pad_id()
    if self.pad_id < 0:
      self.pad_id = 0 if self._splitter is None else self.eos_id
    self.bos_id = self._id(names['bos']) if 'bos' in names else self._model.bos_id()
    self.bos_id = None if self.bos_id < 0 else self.bos_id
    self.start = (self.bos_id,) if self._settings['starts'] and self.bos_id is not None else ()

  def _load(self, more: bytes = b'') -> Any:
    import sentencepiece

    # Protobuf merges fields appended to a serialised message into it: here, more pieces.
    sentinels = [f'▁<extra_id_{i}>'.encode() for i in reversed(range(self._settings['extra_ids']))]
    added = b''.join(_piece(sentinel) for sentinel in sentinels if sentinel not in self._content)
    model = sentencepiece.SentencePieceProcessor()
    try:
      model.LoadFromSerializedProto(self._content + added + more)
    except RuntimeError as error:
      raise ValueError(f'{self.path} is not a SentencePiece model (found {len(self._content)} bytes that start with '
                       f'{self._content[:8]!r}). Give the path of a .model file.') from error
    return model

  @functools.cached_property
  def _spaceless(self) -> Any:
    """The model that neither puts a space before a text nor removes any."""
    # Field 3 of the model is its normaliser, whose field 3 puts the space and field 4 removes extra ones.
    return self._load(bytes([3 << 3 | 2, 4, 3 << 3, 0, 4 << 3, 0]))

  def _match(self, tokens: Sequence[AddedToken]) -> None:
    """Lets the control pieces, the sentinels and the given tokens be matched in texts."""
    pieces = list(range(self.size))
    own = [i for i, control, unknown in zip(pieces, self._model.IsControl(pieces), self._model.IsUnknown(pieces),
                                            strict=True) if control or unknown]
    sentinels = {f'<extra_id_{i}>': self._model.PieceToId(f'▁<extra_id_{i}>')
                 for i in range(self._settings['extra_ids'])}
    matched = {self._model.IdToPiece(i): i for i in own} | sentinels
    free, taken = self.size, set(sentinels.values())
    for token in tokens:
      piece = self._model.PieceToId(token.content)
      found = matched.get(token.content, None if piece == self._model.unk_id() else piece)
      if found is None:
        found = free if token.id is None or token.id in taken else token.id
      self._report(token, found)
      matched[token.content], free = found, max(free, found + 1)
    given = {token.content: token for token in tokens}
    self.added = matched
    self._outside = {i: text for text, i in matched.items() if i >= self.size}
    self._splitter = Splitter({given.get(text, AddedToken(text, special=True)): i for text, i in matched.items()})

  def _id(self, text: str) -> int:
    found = self.added.get(text, self._model.PieceToId(text))
    if found == self._model.unk_id() and text != self._model.IdToPiece(found):
      raise ValueError(f'{self.path} has no token {text!r}. Name one of its tokens.')
    return found

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without the end token.

    Raises:
      ValueError: the text has half of a character.
    """
    require_whole(text)
    if self._splitter is None:
      return self._model.EncodeAsIds(text)
    ids, spaces = [], self._settings['spaces']
    for number, (added, part) in enumerate(self._splitter.split(text)):
      asked = spaces == 'each' or (spaces == 'first' and number == 0)
      model = self._model if spaces == 'all' or (asked and not part.startswith(' ')) else self._spaceless
      ids += model.EncodeAsIds(part) if added is None else [added]
    return ids

  def piece(self, token: int) -> str:
    """Returns how the file writes a token; that of the unknown token if there is no such one."""
    unknown = self._model.unk_id()
    return self._outside.get(token) or self._model.IdToPiece(token if 0 <= token < self.size else unknown)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids` up to the first end token; an id outside the vocabulary is an unknown piece."""
    ids, texts, unknown = until_end(ids, self.end_ids), [], self._model.unk_id()
    for added, group in itertools.groupby(ids, self._outside.get) if self._outside else [(None, ids)]:
      part = [i if 0 <= i < self.size else unknown for i in group]
      text = self._model.DecodeIds(part) if added is None else added * len(part)
      # SentencePiece removes the leading space, which only the first part has in addition to its text.
      spaced = texts and added is None and self._model.IdToPiece(part[0]).startswith('▁')
      texts.append(f' {text.removeprefix(" ")}' if spaced else text)
    return ''.join(texts)


def _piece(name: bytes) -> bytes:
  """Returns one user-defined piece as a serialised field of SentencePiece's ModelProto."""
  # Fields of the piece: 1 is its text, 3 its type; the score, field 2, is 0 by default.
  piece = bytes([1 << 3 | 2, len(name)]) + name + bytes([3 << 3, _USER_DEFINED])
  return bytes([1 << 3 | 2, len(piece)]) + piece  # field 1 of the model: pieces
