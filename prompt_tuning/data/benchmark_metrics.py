"""Metrics of GLUE and SuperGLUE: functions `(targets, predictions) -> {name: value}`, all values in percent.

They take the values that `text_to_text` makes from texts: label indices, or groups of them. An index of -1 is a
prediction that is not a label; it counts as wrong. Definitions are those of the benchmarks (Wang et al. 2018 and 2019),
names are T5's. An undefined correlation, for example when all predictions are equal, is 0.
"""

import collections
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data import metrics
from prompt_tuning.data.qa_metrics import normalize, word_f1


def matthews(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Returns the Matthews correlation of labels; predictions that are not labels form one extra label."""
  metrics.pairs(targets, predictions)
  score = metrics.library('sklearn.metrics', 'matthews_corrcoef').matthews_corrcoef
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of a single label
    return {'matthews_corrcoef': 100.0 * float(score(list(targets), list(predictions)))}


def binary_f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Returns the F1 of label 1 against label 0; a prediction that is neither counts as the wrong one of the two."""
  return {'f1': _binary_f1(metrics.pairs(targets, predictions))}


def mean_3class_f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
  """Returns the mean F1 of labels 0, 1 and 2."""
  metrics.pairs(targets, predictions)
  score = metrics.library('sklearn.metrics', 'mean_3class_f1').f1_score
  found = score(list(targets), list(predictions), labels=[0, 1, 2], average='macro', zero_division=0.0)
  return {'mean_3class_f1': 100.0 * float(found)}


def correlations(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
  """Returns the Pearson correlation of scores and the Spearman correlation of their ranks."""
  metrics.pairs(targets, predictions)
  stats = metrics.library('scipy.stats', 'pearson_corrcoef')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of equal scores
    found = {name: function(targets, predictions)[0] if len(targets) > 1 else 0.0
             for name, function in (('pearson', stats.pearsonr), ('spearman', stats.spearmanr))}
  return {f'{name}_corrcoef': 100.0 * float(np.nan_to_num(value)) for name, value in found.items()}


def multirc(targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Returns MultiRC's two metrics of answers grouped by question.

  'f1' is F1 over all answers (F1a); 'exact_match' is the share of questions with every answer labelled correctly.

  Args:
    targets: dicts with 'label', 1 for a correct answer, and 'group', the question.
    predictions: dicts with 'label'.
  """
  pairs = [(target['label'], prediction['label']) for target, prediction in metrics.pairs(targets, predictions)]
  right: dict[str, bool] = collections.defaultdict(lambda: True)
  for target, (wanted, found) in zip(targets, pairs, strict=True):
    right[target['group']] &= wanted == found
  return {'f1': _binary_f1(pairs), 'exact_match': metrics.mean(list(right.values()))}


def record(targets: Sequence[Mapping[str, Any]], predictions: Sequence[str]) -> dict[str, float]:
  """Returns ReCoRD's two metrics, each the best over a query's answers: exact match 'em' and word F1 'f1'.

  Texts are compared in lower case, without punctuation and articles. A query that occurs several times, once for each
  of its answers, counts once, with its first prediction.

  Args:
    targets: dicts with 'answers', texts, and 'group', the query.
    predictions: texts.
  """
  queries: dict[str, tuple[Sequence[str], str]] = {}
  for target, prediction in metrics.pairs(targets, predictions):
    queries.setdefault(target['group'], (target['answers'], prediction))
  best = [(max((float(normalize(answer) == normalize(text)) for answer in answers), default=0.0),
           max((word_f1(answer, text) for answer in answers), default=0.0))
          for answers, text in queries.values()]
  return {'em': metrics.mean([match for match, _ in best]), 'f1': metrics.mean([overlap for _, overlap in best])}


def _binary_f1(pairs: Sequence[tuple[int, int]]) -> float:
  score = metrics.library('sklearn.metrics', 'f1').f1_score
  targets = [int(target == 1) for target, _ in pairs]
  predictions = [int((target == 1) == (target == prediction)) for target, prediction in pairs]
  return 100.0 * float(score(targets, predictions, zero_division=0.0))
