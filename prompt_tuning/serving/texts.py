"""Texts that grow token by token: no character is cut, and no part of a stop text gets out."""

from collections.abc import Sequence
from typing import Any

_UNKNOWN = '\N{REPLACEMENT CHARACTER}'  # what a decoder writes for bytes that are not a whole character


class GrowingText:
  """The text of an answer.

  Args:
    vocabulary: decodes ids; None: there is no text.
    stop: texts that end it.
  """

  def __init__(self, vocabulary: Any, stop: Sequence[str]):
    self._vocabulary, self._stop = vocabulary, stop
    self._ids: list[int] = []
    self._from = self._to = 0  # the tokens whose text is compared with that of one token more, see `_decoded`
    self._held = ''  # text that may be the beginning of a stop text
    self.stopped = False

  def add(self, token: int) -> str:
    """Returns the text that a further token adds for certain; `stopped` is True if a stop text is complete then."""
    if self._vocabulary is None:
      return ''
    self._ids.append(token)
    return self._checked(self._decoded())

  def end(self) -> str:
    """Returns what was held back, at the end of the answer."""
    if self._vocabulary is None or self.stopped:
      return ''
    out = self._checked(self._decoded(whole=False))
    if not self.stopped:
      out, self._held = out + self._held, ''
    return out

  def _decoded(self, whole: bool = True) -> str:
    """Returns the text of the tokens since the last call.

    The text of a token depends on those before it (a space at the start of a text), so a few before it are decoded
    with it and without it.
    """
    decode = self._vocabulary.decode
    before, after = decode(self._ids[self._from:self._to]), decode(self._ids[self._from:])
    if len(after) <= len(before) or (whole and after.endswith(_UNKNOWN)):
      return ''
    self._from, self._to = self._to, len(self._ids)
    return after[len(before):]

  def _checked(self, text: str) -> str:
    """Returns the part of the held text and a new one that cannot belong to a stop text."""
    text = self._held + text
    places = [place for place in map(text.find, self._stop) if place >= 0]
    if places:
      self.stopped, self._held = True, ''
      return text[:min(places)]
    kept = max((size for stop in self._stop for size in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:size])), default=0)
    self._held = text[len(text) - kept:]
    return text[:len(text) - kept]
