"""Metrics: functions `(targets, predictions) -> {name: value}`, all values in percent.

`get` finds them by name. F1, BLEU and ROUGE come from their reference libraries: `pip install '.[metrics]'`.

Two texts are equal if their words are: white space at the ends does not count, and any run of it elsewhere counts as
one space; case and punctuation count. Accuracy, F1 and the labels that they name follow this rule. Only
`sequence_match` compares characters, and the metrics of SQuAD, GLUE and SuperGLUE follow their benchmarks.
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
  """Returns the share of predictions that equal their target, by words."""
  return {'accuracy': mean([normal(t) == normal(p) for t, p in pairs(targets, predictions)])}


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
  targets, predictions = _labels(targets, predictions, 'f1')
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
    """Returns the F1 of the positive label, under the name `f1:LABEL`.

    Raises:
      ValueError: no target has the label.
    """
    name, positive = f'f1:{self.positive}', normal(self.positive)
    targets, predictions = _labels(targets, predictions, name)
    self.require(targets)
    score = library('sklearn.metrics', 'f1').f1_score
    found = score([t == positive for t in targets], [p == positive for p in predictions], zero_division=0.0)
    return {name: 100.0 * float(found)}

  def require(self, targets: Sequence[str]) -> None:
    """Raises ValueError if no target has the label."""
    name, positive, known = f'f1:{self.positive}', normal(self.positive), sorted(set(_labels(targets, targets, '')[0]))
    if positive not in known:
      raise ValueError(f'The metric {name} cannot be computed: none of the {len(targets)} targets is '
                       f'{self.positive!r}; found {", ".join(map(repr, known[:10]))}{" …" if known[10:] else ""}.'
                       f'{nearest(positive, known)} Name one of these labels, or evaluate more examples.')


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
  """Returns the metric of this name; 'f1:LABEL' is the F1 of one label, and the name of its value.

  Raises:
    ValueError: the metric does not exist; the message names the nearest.
  """
  if name.startswith('f1:') and normal(name.removeprefix('f1:')):
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
  """Returns targets with their predictions; raises ValueError if the counts differ or are 0, or a target is None."""
  if len(targets) != len(predictions) or len(targets) == 0:
    raise ValueError(f'A metric got {len(targets)} targets and {len(predictions)} predictions. '
                     'Give one prediction for each target, and at least one target.')
  for i, target in enumerate(targets):
    if target is None:
      raise ValueError(f'Example {i} has no target to compare with. Give every example a target, or leave it out.')
  return list(zip(targets, predictions, strict=True))


def normal(value: Any) -> Any:
  """Returns the form of a text in which equal texts are the same; ids as lists, and anything else unchanged."""
  return ' '.join(value.split()) if isinstance(value, str) else _exact(value)


def _labels(targets: Sequence[Any], predictions: Sequence[Any], metric: str) -> tuple[list[str], list[str]]:
  """Returns labels as texts in their normal form; raises ValueError if one is neither a text nor a number."""
  def label(value: Any) -> str:
    value = normal(value)
    if isinstance(value, int | float):
      return repr(int(value) if float(value).is_integer() else value)
    if not isinstance(value, str):
      raise ValueError(f'The metric {metric} compares texts or numbers, but got {value!r:.60}. Use another metric.')
    return value

  pairs(targets, predictions)
  return [label(target) for target in targets], [label(prediction) for prediction in predictions]


def _references(target: str | Sequence[str]) -> list[str]:
  return [target] if isinstance(target, str) else list(target)


def _words(value: Any) -> list:
  return value.split() if isinstance(value, str) else _exact(value)


def _exact(value: Any) -> Any:
  return value if isinstance(value, str) else np.asarray(value).tolist()


def mean(values: Sequence[float]) -> float:
  """Returns the mean in percent."""
  return 100.0 * float(np.mean(values))
