"""Metrics: functions `(targets, predictions) -> {name: value}`, all values in percent.

`get` finds them by name. F1, BLEU and ROUGE come from the libraries that define them, which the extra
`prompt-tuning[metrics]` installs.
"""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from prompt_tuning import trees

Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns how many predictions are the whole target; white space counts as one blank."""
  return {'accuracy': mean([_words(t) == _words(p) for t, p in pairs(targets, predictions)])}


def sequence_match(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Returns how many predictions equal their target exactly: texts to the letter, arrays to the id."""
  return {'sequence_match': mean([_exact(t) == _exact(p) for t, p in pairs(targets, predictions)])}


def token_accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Returns how many tokens (words of a text, ids of an array) are right at their place.

  A pair counts as many places as its longer side has, so words too many are as wrong as words missing.
  """
  right = places = 0
  for target, prediction in pairs(targets, predictions):
    target, prediction = _words(target), _words(prediction)
    right += sum(t == p for t, p in zip(target, prediction, strict=False))
    places += max(len(target), len(prediction))
  return {'token_accuracy': 100.0 * right / max(1, places)}


def f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns the mean over the targets' labels of each label's F1 (macro); other predictions are wrong."""
  pairs(targets, predictions)
  score = library('sklearn.metrics', 'f1').f1_score
  labels = sorted(set(targets))
  return {'f1': 100.0 * float(score(targets, predictions, labels=labels, average='macro', zero_division=0.0))}


@dataclasses.dataclass(frozen=True)
class BinaryF1:
  """F1 of one label against all others; `get('f1:equivalent')` makes it.

  Attributes:
    positive: the label whose precision and recall count.
  """

  positive: str

  def __call__(self, targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the F1 of the positive label."""
    pairs(targets, predictions)
    score = library('sklearn.metrics', 'f1').f1_score
    found = score([t == self.positive for t in targets], [p == self.positive for p in predictions], zero_division=0.0)
    return {'f1': 100.0 * float(found)}


def bleu(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Returns sacrebleu's corpus BLEU with its default settings; a target may be several references."""
  pairs(targets, predictions)
  references = [_references(target) for target in targets]
  most = max(map(len, references))
  streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
  # `force` keeps it from doubting texts that come tokenised, as E2E's.
  return {'bleu': float(library('sacrebleu', 'bleu').corpus_bleu(list(predictions), streams, force=True).score)}


def sentence_bleu(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Returns the mean over the predictions of sacrebleu's sentence BLEU; a target may be several references.

  The order is effective: n-grams longer than the prediction do not count. Else the settings are sacrebleu's own: its
  tokenisation '13a' of both sides, case kept, smoothing 'exp'.
  """
  score = library('sacrebleu', 'sentence_bleu').sentence_bleu
  found = [score(prediction, _references(target), use_effective_order=True).score
           for target, prediction in pairs(targets, predictions)]
  return {'sentence_bleu': float(np.mean(found))}


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns the mean F-measures of ROUGE-1, ROUGE-2 and ROUGE-Lsum, without stemming."""
  names = ('rouge1', 'rouge2', 'rougeLsum')
  scorer = library('rouge_score.rouge_scorer', 'rouge').RougeScorer(names)
  scores = [scorer.score(target, prediction) for target, prediction in pairs(targets, predictions)]
  return {name: mean([score[name].fmeasure for score in scores]) for name in names}


METRICS: dict[str, Metric] = {m.__name__: m for m in (
  accuracy, sequence_match, token_accuracy, f1, bleu, sentence_bleu, rouge)}


def get(name: str) -> Metric:
  """Returns the metric of this name; 'f1:LABEL' is the F1 of one label.

  Raises:
    ValueError: there is none; the message names the nearest.
  """
  if name.startswith('f1:'):
    return BinaryF1(name.removeprefix('f1:'))
  if name not in METRICS:
    raise ValueError(f'There is no metric {name!r}.{trees.nearest(name, METRICS)} '
                     f'Give one of {", ".join(METRICS)}, or f1:LABEL for the F1 of one label.')
  return METRICS[name]


def library(module: str, metric: str) -> ModuleType:
  """Returns a module that a metric needs; ImportError says how to install it."""
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(f'The metric {metric} needs {module.split(".")[0]}, which is not installed: '
                      '`pip install prompt-tuning[metrics]`.') from error


def pairs(targets: Sequence[Any], predictions: Sequence[Any]) -> list[tuple[Any, Any]]:
  """Returns targets with their predictions; ValueError where there are not as many, or none."""
  if len(targets) != len(predictions) or len(targets) == 0:
    raise ValueError(f'A metric is given {len(targets)} targets and {len(predictions)} predictions. '
                     'Give as many of one as of the other, and at least one.')
  return list(zip(targets, predictions, strict=True))


def _references(target: str | Sequence[str]) -> list[str]:
  return [target] if isinstance(target, str) else list(target)


def _words(value: Any) -> list:
  return value.split() if isinstance(value, str) else _exact(value)


def _exact(value: Any) -> Any:
  return value if isinstance(value, str) else np.asarray(value).tolist()


def mean(values: Sequence[float]) -> float:
  """Returns the mean in percent."""
  return 100.0 * float(np.mean(values))
