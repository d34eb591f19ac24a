"""Ranked classification: predicts the most likely of given words, without generation."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.pipeline import EvalBatches
from prompt_tuning.data.preprocessing import end_of
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.ranking import rank_batch
from prompt_tuning.names import nearest
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.rows.token_ids import require_ids

SCORES = ('sum', 'mean')


@dataclasses.dataclass(frozen=True)
class Ranked:
  """The words to rank, and the score to rank them by.

  Attributes:
    words: all possible target texts, of any number of tokens.
    score: 'sum', the log-likelihood of a word with its end token, as in `LanguageModel.score`; or 'mean', which divides
      it by the number of tokens and does not favour short words.

  Raises:
    ValueError: there are fewer than two words or duplicates, or the score is unknown.
  """

  words: Sequence[str]
  score: str = 'sum'

  def __post_init__(self) -> None:
    object.__setattr__(self, 'words', tuple(self.words))
    if len(self.words) < 2 or len(set(self.words)) < len(self.words):
      raise ValueError(f'The words to rank are {list(self.words)}. Give at least two different ones, such as '
                       "['negative', 'positive'].")
    if self.score not in SCORES:
      raise ValueError(f'Ranking got score={self.score!r}. Use {" or ".join(SCORES)}.')

  def require(self, target: str) -> None:
    """Raises ValueError if a target is not one of the words."""
    if target not in self.words:
      raise ValueError(f'The target {target!r} is not among the words to rank, {", ".join(map(repr, self.words))}.'
                       f'{nearest(target, self.words)} Give all possible targets.')

  def told(self, scores: np.ndarray) -> dict[str, Any]:
    """Returns the scores [C] by word, and the probability of the likeliest among the words."""
    return {'scores': dict(zip(self.words, scores.tolist(), strict=True)),
            'confidence': float(1.0 / np.exp(scores - scores.max()).sum())}


def rank(model: LanguageModel, conditioning: Conditioning, batches: EvalBatches,
         ranked: Ranked) -> Iterator[np.ndarray]:
  """Yields [C] for each example in turn: the score of each word as its target.

  Raises:
    ValueError: two words have the same tokens, or one has none.
  """
  first = batches.examples[0]  # in some tasks, no target has an end token
  ends = [end_of(first, model.vocabulary)] if first.get('targets_ends', True) else []
  tokens = [[*model.vocabulary.encode(word), *ends] for word in ranked.words]
  _require_different(tokens, ranked.words, len(ends))
  for word, ids in zip(ranked.words, tokens, strict=True):
    require_ids(ids, model.module.config.vocab_size, f'The word {word!r}')
  lengths = np.array([len(ids) for ids in tokens])
  answers = np.zeros((len(tokens), lengths.max()), np.int32)
  for row, ids in zip(answers, tokens, strict=True):
    row[:len(ids)] = ids
  for batch, examples in batches.questions():
    scores = np.asarray(rank_batch(model.module, model.params, batch, conditioning, answers, lengths))
    yield from (scores / lengths if ranked.score == 'mean' else scores)[:len(examples)]


def _require_different(tokens: Sequence[Sequence[int]], words: Sequence[str], ends: int) -> None:
  seen: dict[tuple[int, ...], Any] = {}
  for ids, word in zip(tokens, words, strict=True):
    if len(ids) == ends:
      raise ValueError(f'The word {word!r} has no tokens in the vocabulary, so it cannot be ranked. Give another word.')
    other = seen.setdefault(tuple(ids), word)
    if other != word:
      raise ValueError(f'The words {other!r} and {word!r} have the same tokens, {list(ids)}, so they cannot be ranked. '
                       'Give words with different tokens.')
