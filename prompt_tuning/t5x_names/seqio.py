"""`seqio.…`: vocabularies, and what is kept of an evaluation. SeqIO itself is not needed."""

import dataclasses

from prompt_tuning.runs.choice import Choice

__all__ = ['Evaluator', 'PassThroughVocabulary', 'SentencePieceVocabulary']


def SentencePieceVocabulary(sentencepiece_model_file: str | None = None, extra_ids: int = 100,
                            default: str | None = None) -> Choice:
  """Chooses a file, or None the one in the checkpoint's folder; `default` is taken if that has none."""
  given = {'path': sentencepiece_model_file, 'extra_ids': extra_ids, 'default': default}
  return Choice('sentencepiece', {name: value for name, value in given.items() if value is not None})


def PassThroughVocabulary(size: int, eos_id: int = 1) -> Choice:
  """Chooses the vocabulary of models without a tokenizer: texts are token ids with blanks between them."""
  return Choice('pass_through', {'size': size, 'eos_id': eos_id})


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """What is evaluated by generating, and kept.

  Attributes:
    num_examples: only so many, from the first; None is all.
    use_memory_cache: accepted; examples are always kept in memory.
    write_n_results: how many predictions are written; None is all.
  """

  num_examples: int | None = None
  use_memory_cache: bool = True
  write_n_results: int | None = None
