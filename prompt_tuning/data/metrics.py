"""Metrics: functions `(targets, predictions) -> {name: value}`, all values in percent.

`get` finds them by name. F1, BLEU and ROUGE come from their reference libraries: `pip install '.[metrics]'`.
"""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from prompt_tuning.names import nearest

Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns the share of predictions that equal their target; any run of white space counts as one space."""
  return {'accuracy': mean([_words(t) == _words(p) for t, p in pairs(targets, predictions)])}


def sequence_match(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Returns the share of predictions that equal their target exactly: texts by character, arrays by id."""
  return {'sequence_match': mean([_exact(t) == _exact(p) for t, p in pairs(targets, predictions)])}


def token_accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Returns the share of positions with the right token (word of a text, id of an array).

  A pair counts as many positions as its longer side has, so extra words are as wrong as missing words.
  """
  right = places = 0
  for target, prediction in pairs(targets, predictions):
    target, prediction = _words(target), _words(prediction)
    right += sum(t == p for t, p in zip(target, prediction, strict=False))
    places += max(len(target), len(prediction))
  return {'token_accuracy': 100.0 * right / max(1, places)}


def f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns macro F1: the mean F1 of the labels in the targets; other predictions are wrong."""
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
  # `force` turns off the warning for texts that are already tokenised, such as E2E's.
  return {'bleu': float(library('sacrebleu', 'bleu').corpus_bleu(list(predictions), streams, force=True).score)}


def sentence_bleu(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Returns the mean of sacrebleu's sentence BLEU over predictions; a target may be several references.

  It uses the effective order: n-grams longer than the prediction do not count. Other settings are sacrebleu's
  defaults: tokenisation '13a' on both sides, case-sensitive, smoothing 'exp'.
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
    ValueError: the metric does not exist; the message names the nearest.
  """
  if name.startswith('f1:'):
    return BinaryF1(name.removeprefix('f1:'))
  if name not in METRICS:
    raise ValueError(f'There is no metric {name!r}.{nearest(name, METRICS)} '
                     f'Use one of {", ".join(METRICS)}, or f1:LABEL for the F1 of one label.')
  return METRICS[name]


def library(module: str, metric: str) -> ModuleType:
  """Returns a module that a metric needs; the ImportError says how to install it."""
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(f'The metric {metric} needs {module.split(".")[0]}, which is not installed: '
                      "`pip install '.[metrics]'`.") from error


def pairs(targets: Sequence[Any], predictions: Sequence[Any]) -> list[tuple[Any, Any]]:
  """Returns targets with their predictions; raises ValueError if the counts differ or are 0."""
  if len(targets) != len(predictions) or len(targets) == 0:
    raise ValueError(f'A metric got {len(targets)} targets and {len(predictions)} predictions. '
                     'Give one prediction for each target, and at least one target.')
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
