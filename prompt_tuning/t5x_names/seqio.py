"""`seqio.…`: vocabularies, and what is kept of an evaluation. SeqIO itself is not needed."""

import contextlib
import dataclasses
import functools
import os
from typing import Any

from prompt_tuning.data import vocabularies, vocabulary_folders
from prompt_tuning.files import storage
from prompt_tuning.models.loading import find_model
from prompt_tuning.t5x_names.recipe import Recipe

__all__ = ['Evaluator', 'PassThroughVocabulary', 'SentencePieceVocabulary']


def SentencePieceVocabulary(sentencepiece_model_file: str | None = None, extra_ids: int = 100,
                            default: str | None = None) -> Recipe:
  """Names a vocabulary.

  Args:
    sentencepiece_model_file: a SentencePiece model, local or `gs://`, a `tokenizer.json`, a folder with one of them, or
      the name of a model that comes with the package; None takes the one in the checkpoint's folder.
    extra_ids: how many sentinels there are; those that the file lacks are appended.
    default: the file to take where the checkpoint's folder has none.
  """

  def make(model: Any) -> vocabularies.Vocabulary:
    folder = find_model(model.path) if model.path else ''
    if sentencepiece_model_file is None and folder and not storage.is_remote(folder):
      with contextlib.suppress(FileNotFoundError):
        return vocabulary_folders.load_vocabulary(folder)
    path = sentencepiece_model_file or default
    if path is None:
      raise FileNotFoundError(
        f'{folder or "The run"} holds no vocabulary (tokenizer.json, spiece.model or sentencepiece.model). Copy the '
        'file there, or set --gin.seqio.SentencePieceVocabulary.sentencepiece_model_file="\'PATH\'".')
    return _open(path, extra_ids)

  return Recipe(make)


def PassThroughVocabulary(size: int, eos_id: int = 1) -> Recipe:
  """Names the vocabulary of models without a tokenizer: texts are token ids with blanks between them."""
  return Recipe(lambda model: vocabularies.PassThroughVocabulary(size, eos_id))


@functools.lru_cache(maxsize=4)
def _open(path: str, extra_ids: int) -> vocabularies.Vocabulary:
  path = find_model(path)
  if path.endswith('.json') or os.path.isdir(path):
    return vocabulary_folders.load_vocabulary(path)
  try:
    return vocabularies.SentencePieceVocabulary(path, extra_ids)
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{path}: there is no such vocabulary file. Set --gin.seqio.SentencePieceVocabulary.'
                            'sentencepiece_model_file="\'PATH\'".') from error


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """What is evaluated by answering, and kept.

  Attributes:
    num_examples: only so many, from the first; None is all.
    use_memory_cache: accepted; examples are always kept in memory.
    write_n_results: how many answers are written; None is all.
  """

  num_examples: int | None = None
  use_memory_cache: bool = True
  write_n_results: int | None = None
