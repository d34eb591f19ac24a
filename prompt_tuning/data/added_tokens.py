"""Tokens that are matched in a text before the vocabulary reads the rest, such as `<|im_start|>`."""

import dataclasses
from collections.abc import Iterator, Mapping


@dataclasses.dataclass(frozen=True)
class AddedToken:
  """One token, as the files of a model folder describe it.

  Attributes:
    content: its text.
    id: its id; None if the files do not state one.
    lstrip, rstrip: the white space before or after it belongs to it.
    single_word: it is not matched within a word.
    normalized: it is matched in the normalised text; None means unless it is special.
    special: it has a meaning for the model and is not a part of the text.
  """

  content: str
  id: int | None = None
  lstrip: bool = False
  rstrip: bool = False
  single_word: bool = False
  normalized: bool | None = None
  special: bool = False


class Splitter:
  """Divides texts at added tokens.

  Args:
    tokens: token -> id.
  """

  def __init__(self, tokens: Mapping[AddedToken, int]):
    import tokenizers

    # Everything between added tokens is one unknown word of this tokenizer, whose only word is the empty text.
    self._tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({'': 0}, unk_token=''))
    self._tokenizer.add_tokens([library_token(token) for token in tokens])
    self._beginnings = {token.content[0] for token in tokens}
    self._ids = {self._tokenizer.token_to_id(token.content): i for token, i in tokens.items()}

  def split(self, text: str) -> Iterator[tuple[int | None, str]]:
    """Yields the parts of a text in order: the id of an added token, or None and the text between two of them."""
    if not any(beginning in text for beginning in self._beginnings):  # nearly all texts: no token begins in them
      yield None, text
      return
    found = self._tokenizer.encode(text)
    for number, (start, end) in zip(found.ids, found.offsets, strict=True):
      yield self._ids.get(number), text[start:end]


def library_token(token: AddedToken):
  """Returns the token as an object of the tokenizers library."""
  import tokenizers

  normalized = not token.special if token.normalized is None else token.normalized
  return tokenizers.AddedToken(token.content, lstrip=token.lstrip, rstrip=token.rstrip, normalized=normalized,
                               single_word=token.single_word, special=token.special)
