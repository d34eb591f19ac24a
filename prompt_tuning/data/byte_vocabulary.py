"""ByT5's vocabulary: a token for each byte of UTF-8."""

from collections.abc import Iterable, Sequence

from prompt_tuning.data.added_tokens import AddedToken, Splitter
from prompt_tuning.data.vocabulary import FileVocabulary, require_whole, until_end

_BYTES = range(3, 3 + 256)  # after <pad>, </s> and <unk>


class ByteVocabulary(FileVocabulary):
  """Bytes, after the ids of padding (0), end (1) and unknown tokens (2).

  Args:
    extra_ids: ids after the bytes, of the sentinels `<extra_id_0>`, …
    path: a file of the model's folder, or ''.
    ends: ids of additional tokens that end a generation.
    added: tokens that are matched in a text, as sentinels and the first three tokens then are too, which is how
      transformers reads texts. None is SeqIO's way: texts are nothing but bytes.
  """

  tokenizer_class = 'ByT5Tokenizer'
  pad_id, eos_id, bos_id, start = 0, 1, None, ()

  def __init__(self, extra_ids: int = 0, *, path: str = '', ends: Iterable[int] = (),
               added: Sequence[AddedToken] | None = None):
    super().__init__(path, b'', {'extra_ids': extra_ids, 'ends': tuple(ends), 'added': added})

  def _open(self) -> None:
    self.size = _BYTES.stop + self._settings['extra_ids']
    self._splitter, added = None, self._settings['added']
    if added is None:
      return
    first = [AddedToken(text, i, lstrip=True, rstrip=True, special=True)
             for i, text in enumerate(('<pad>', '</s>', '<unk>'))]
    sentinels = [AddedToken(f'<extra_id_{i}>', _BYTES.stop + i, special=True)
                 for i in range(self._settings['extra_ids'])]
    tokens = {token.content: token for token in [*first, *sentinels]}
    for token in added:
      known, free = tokens.get(token.content), max(token.id for token in tokens.values()) + 1
      if known is None:
        tokens[token.content] = token if token.id is not None else AddedToken(token.content, free, special=True)
        self._report(token, tokens[token.content].id)
      elif token.id is not None:
        tokens[token.content] = token
    self.added = {text: token.id for text, token in tokens.items()}
    self._splitter = Splitter({token: token.id for token in tokens.values()})

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without the end token.

    Raises:
      ValueError: the text has half of a character.
    """
    require_whole(text)
    parts = [(None, text)] if self._splitter is None else self._splitter.split(text)
    return [i for added, part in parts for i in ([_BYTES.start + byte for byte in part.encode()]
                                                 if added is None else [added])]

  def piece(self, token: int) -> str:
    """Returns the text of a control or added token, or a byte as <0xE2>; '' if there is no such token."""
    control = {0: '<pad>', 1: '</s>', 2: '<unk>', **{i: text for text, i in self.added.items()}}
    return f'<0x{token - _BYTES.start:02X}>' if token in _BYTES else control.get(token, '')

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids` up to the first end token, without padding and incomplete characters."""
    texts = {i: text.encode() for text, i in self.added.items() if i >= _BYTES.stop}
    return b''.join(bytes([i - _BYTES.start]) if i in _BYTES else texts.get(i, b'')
                    for i in until_end(ids, self.end_ids)).decode(errors='ignore')
