"""`seqio.…`: vocabularies, and what evaluations generate and write. SeqIO itself is not needed."""

import dataclasses

from prompt_tuning.runs.choice import Choice

__all__ = ['ByteVocabulary', 'Evaluator', 'PassThroughVocabulary', 'SentencePieceVocabulary']


def SentencePieceVocabulary(sentencepiece_model_file: str | None = None, extra_ids: int | None = None,
                            default: str | None = None) -> Choice:
  """Chooses a file; None is the one in the checkpoint's folder, or `default` if it has none.

  `extra_ids=None` is the number of sentinels that the folder states, else 100.
  """
  given = {'path': sentencepiece_model_file, 'extra_ids': extra_ids, 'default': default}
  return Choice('sentencepiece', {name: value for name, value in given.items() if value is not None})


def ByteVocabulary(extra_ids: int = 0) -> Choice:
  """Chooses ByT5's vocabulary: a token for each byte."""
  return Choice('bytes', {'extra_ids': extra_ids})


def PassThroughVocabulary(size: int, eos_id: int = 1) -> Choice:
  """Chooses the vocabulary of models without a tokenizer: texts are token ids separated by spaces."""
  return Choice('pass_through', {'size': size, 'eos_id': eos_id})


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Which predictions are generated for evaluation, and written.

  Attributes:
    num_examples: only this many, from the first; None is all.
    use_memory_cache: accepted; examples are always kept in memory.
    write_n_results: how many predictions are written; None is all.
  """

  num_examples: int | None = None
  use_memory_cache: bool = True
  write_n_results: int | None = None
