"""Vocabularies: text to token ids and back. `vocabulary.py` says what each of them has."""

from collections.abc import Iterable

from prompt_tuning.data.byte_vocabulary import ByteVocabulary
from prompt_tuning.data.sentencepiece_vocabulary import SentencePieceVocabulary
from prompt_tuning.data.tokenizers_vocabulary import TokenizersVocabulary
from prompt_tuning.data.vocabulary import Vocabulary, started, until_end

__all__ = ['ByteVocabulary', 'PassThroughVocabulary', 'SentencePieceVocabulary', 'TokenizersVocabulary', 'Vocabulary',
           'started', 'until_end']


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

  def piece(self, token: int) -> str:
    """Returns a token id as text."""
    return str(token)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the ids up to the first end token as text, without padding."""
    return ' '.join(str(i) for i in until_end(ids, self.end_ids) if i != self.pad_id)

  def __eq__(self, other: object) -> bool:
    return type(other) is type(self) and vars(other) == vars(self)

  def __hash__(self) -> int:
    return hash((self.size, self.eos_id, self.pad_id))

  def __repr__(self) -> str:
    return f'PassThroughVocabulary({self.size})'
