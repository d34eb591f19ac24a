"""Vocabularies of the tokenizers library."""

from collections.abc import Iterable, Sequence
from typing import Any

from prompt_tuning.data.added_tokens import AddedToken, library_token
from prompt_tuning.data.vocabulary import FileVocabulary, require_whole, until_end
from prompt_tuning.files import model_files


class TokenizersVocabulary(FileVocabulary):
  """A `tokenizer.json` of the tokenizers library. The special tokens that it prepends to a text are `start`.

  Args:
    path: the file, local or `gs://`.
    eos: text or id of the end token; or several, of which the first is used that the file has.
    pad: text of the padding token, or several texts; None if the model has none: the end token's id is used.
    bos: text of the begin token, or several texts; None if the model has none.
    mask: likewise, of the mask.
    ends: ids of additional tokens that end a generation.
    added: tokens that are matched in a text; those that the file lacks get the next ids.
    starts: an input begins with the begin token; None does what the file says.
    content: the content of the file, if it is not at `path`.
  """

  def __init__(self, path: str, eos: str | int | Sequence[str | int] = '</s>',
               pad: str | Sequence[str] | None = '<pad>', bos: str | Sequence[str] | None = None,
               ends: Iterable[int] = (), *, added: Sequence[AddedToken] = (), starts: bool | None = None,
               content: bytes | None = None, mask: str | Sequence[str] | None = None):
    super().__init__(path, model_files.read_bytes(path) if content is None else content, {
      'eos': eos, 'pad': pad, 'bos': bos, 'mask': mask, 'ends': tuple(ends), 'added': tuple(added), 'starts': starts})

  def _open(self) -> None:
    try:
      self._read()
    except UnicodeEncodeError as error:
      raise ValueError(f'{self.path}: a token of its folder has half of a character, {error.object!r}'
                       '. Download the files again.') from error

  def _read(self) -> None:
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
    self._match(self._settings['added'])
    self.eos_id = self._id('eos')
    pad, self.bos_id, self.mask_id = self._id('pad'), self._id('bos'), self._id('mask')
    self.pad_id = self.eos_id if pad is None else pad
    plain, whole = self.encode('a'), self._encode('a', special=True).ids
    places = [i for i in range(len(whole)) if plain and whole[i:i + len(plain)] == plain]
    self.start = tuple(whole[:places[0]]) if places else ()
    if self._settings['starts'] is not None:
      self.start = (self.bos_id,) if self._settings['starts'] and self.bos_id is not None else ()

  def _match(self, tokens: Sequence[AddedToken]) -> None:
    """Lets the given tokens be matched in texts; the file describes those that it matches already."""
    known = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
    lacked = {token.content for token in tokens if self._tokenizer.token_to_id(token.content) is None}
    self._tokenizer.add_tokens([library_token(token) for token in tokens if token.content not in known])
    self.added = {token.content: self._tokenizer.token_to_id(token.content) for token in tokens}
    for token in tokens:
      found = self.added[token.content]
      if token.content in lacked and token.id not in (None, found):
        raise ValueError(f'{self.path} has no token {token.content!r}. The other files of its folder give it the id '
                         f'{token.id}, but the next free id is {found}. Use the tokenizer.json of this model.')
      if token.id is not None or token.content in lacked:
        self._report(token, found)

  def _id(self, role: str) -> int | None:
    given = self._settings[role]
    several = isinstance(given, list | tuple)
    for token in given if several else [] if given is None else [given]:
      found = self._tokenizer.token_to_id(token) if isinstance(token, str) else token
      if found is not None and self._tokenizer.id_to_token(found) is not None:
        return found
    if given is None or (several and role != 'eos'):
      return None
    named = ' or '.join(map(repr, given)) if several else repr(given)
    raise ValueError(f'{self.path} has no token for {role}={named or None}. Set {role} to one of the tokens in the file'
                     f'{", or eos_token in tokenizer_config.json" if several else ""}.')

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without the end token.

    Raises:
      ValueError: the text has half of a character.
    """
    require_whole(text)
    return self._encode(text).ids

  def encode_with_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns the ids of `text` as `encode` does, and the characters that each was made of: first and end."""
    require_whole(text)
    found = self._encode(text)
    return found.ids, found.offsets

  def _encode(self, text: str, *, special: bool = False) -> Any:
    try:
      return self._tokenizer.encode(text, add_special_tokens=special)
    except Exception as error:  # the library raises plain exceptions
      raise ValueError(f'{self.path} cannot encode {text!r:.60}: {error}. Use a complete tokenizer.json.') from error

  def piece(self, token: int) -> str:
    """Returns how the file writes a token; '' if there is no such token."""
    return self._tokenizer.id_to_token(token) or ''

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids` up to the first end token."""
    hidden = {self.pad_id, self.bos_id, *self.start}
    return self._tokenizer.decode([i for i in until_end(ids, self.end_ids) if i not in hidden],
                                  skip_special_tokens=False)
