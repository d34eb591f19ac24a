"""The text and the bytes of each token. Several tokens may make one character, so a token may have no text."""

import functools
import re
from collections.abc import Sequence
from typing import Any

_BYTE = re.compile(r'<0x([0-9A-Fa-f]{2})>')


class TokenTexts:
  """The texts of a vocabulary's tokens.

  Args:
    vocabulary: see `data.vocabulary`.
  """

  def __init__(self, vocabulary: Any):
    self._vocabulary = vocabulary
    self._hidden = {*vocabulary.end_ids, vocabulary.pad_id, *vocabulary.start} | {vocabulary.bos_id} - {None}
    self._before = next((ids for ids in map(self._encoded, ('a', '5', '7')) if ids and vocabulary.decode(ids)), [])
    self.bytes_of = functools.lru_cache(maxsize=2**17)(self._bytes_of)

  def is_hidden(self, token: int) -> bool:
    """Returns True for a token that no text shows, such as the end token."""
    return token in self._hidden

  def _bytes_of(self, token: int, first: bool = False) -> bytes:
    """Returns the bytes of a token: within a text, or at its beginning, where some tokens have no space."""
    if token in self._hidden:
      return self._vocabulary.piece(token).encode()
    decode = self._vocabulary.decode
    before = [] if first else self._before
    whole, part = decode([*before, token]), decode(before) if before else ''
    text = whole[len(part):] if whole.startswith(part) else decode([token])
    if text and '�' not in text:
      return text.encode()
    piece = self._vocabulary.piece(token)  # of a part of a character, or nothing
    if match := _BYTE.fullmatch(piece):
      return bytes([int(match[1], 16)])
    if '�' in text and all(each in _letters() for each in piece):
      return bytes(_letters()[each] for each in piece)
    return (text or piece).encode()

  def text_of(self, token: int, first: bool = False) -> str:
    """Returns the text of a token; of a part of a character, its bytes as OpenAI writes them: `bytes:\\xe2`."""
    found = self.bytes_of(token, first)
    try:
      return found.decode()
    except UnicodeDecodeError:
      return 'bytes:' + ''.join(f'\\x{byte:02x}' for byte in found)

  def join(self, tokens: Sequence[int]) -> str:
    """Returns the text of tokens, control tokens included."""
    return b''.join(self.bytes_of(token, place == 0) for place, token in enumerate(tokens)).decode(errors='replace')

  def _encoded(self, text: str) -> list[int]:
    try:
      return list(self._vocabulary.encode(text))
    except ValueError:  # a vocabulary of token ids has no letters
      return []


@functools.cache
def _letters() -> dict[str, int]:
  """Returns the letters that byte-level BPE writes for bytes -> the bytes."""
  shown = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
  others = [byte for byte in range(256) if byte not in shown]
  return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(others)}
