"""Metrics of tasks with few labels: precision, recall and F1 of each class, their averages, confusion, calibration.

For a class c with the predictions p and the targets t, precision is P(t = c | p = c), recall P(p = c | t = c), and F1
their harmonic mean; 0 if nothing is counted. The classes are the labels of the targets; a prediction that is none of
them is wrong. A macro average is the mean over classes, a weighted one counts each as often as it is a target.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.metric_values import labels, library, normal, pairs
from prompt_tuning.names import nearest

MEASURES = ('precision', 'recall', 'f1')
_BINS = 15


@dataclasses.dataclass(frozen=True)
class ClassReport:
  """What was predicted for each class.

  Attributes:
    labels: C classes, sorted.
    confusion: [C, C + 1] how often a target (row) was predicted as a class (column), or as none of them (the last).
    precision, recall, f1: [C] in percent.
    support: [C] how often each is a target.
  """

  labels: tuple[str, ...]
  confusion: np.ndarray
  precision: np.ndarray
  recall: np.ndarray
  f1: np.ndarray
  support: np.ndarray

  def average(self, measure: str, *, weighted: bool = False) -> float:
    """Returns the mean of a measure over classes; weighted by how often each is a target, if that is asked for."""
    return float(np.average(getattr(self, measure), weights=self.support if weighted else None))

  def plain(self) -> dict[str, Any]:
    """Returns the report as plain values, for a file."""
    return {'labels': list(self.labels), 'confusion': self.confusion.tolist(), 'support': self.support.tolist(),
            **{measure: getattr(self, measure).tolist() for measure in MEASURES}}

  def __str__(self) -> str:
    """A table of the classes, and the confusion matrix."""
    names = [repr(label if len(label) <= 30 else f'{label[:29]}…') for label in self.labels]
    width = max(map(len, (*names, 'weighted')))
    lines = [f'{"":{width}}  precision  recall      f1  targets']
    row = lambda name, values, count: f'{name:{width}}  {values[0]:9.1f}  {values[1]:6.1f}  {values[2]:6.1f}  {count:7}'
    lines += [row(name, (self.precision[i], self.recall[i], self.f1[i]), self.support[i])
              for i, name in enumerate(names)]
    for name, weighted in (('macro', False), ('weighted', True)):
      lines.append(row(name, [self.average(measure, weighted=weighted) for measure in MEASURES], self.support.sum()))
    cell = max(7, len(str(self.confusion.max())))
    lines += ['', f'{"target":{width}}  predicted as' + ' (in the order of the rows, then anything else)']
    lines += [f'{name:{width}}  ' + ' '.join(f'{count:{cell}}' for count in self.confusion[i])
              for i, name in enumerate(names)]
    return '\n'.join(lines)


def class_report(targets: Sequence[Any], predictions: Sequence[Any], metric: str = 'classes') -> ClassReport:
  """Returns what was predicted for each class.

  Args:
    targets: texts or numbers.
    predictions: one for each target.
    metric: who asks, for messages.

  Raises:
    ImportError: scikit-learn is not installed.
    ValueError: there are no targets, or one is neither a text nor a number.
  """
  targets, predictions = labels(targets, predictions, metric)
  names = sorted(set(targets))
  number = {name: i for i, name in enumerate(names)}
  true = [number[name] for name in targets]
  found = [number.get(name, len(names)) for name in predictions]
  sklearn = library('sklearn.metrics', metric)
  own = list(range(len(names)))
  precision, recall, f1, support = sklearn.precision_recall_fscore_support(true, found, labels=own, zero_division=0.0)
  confusion = sklearn.confusion_matrix(true, found, labels=[*own, len(names)])[:-1]
  return ClassReport(tuple(names), confusion, 100.0 * precision, 100.0 * recall, 100.0 * f1, support)


def classes(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
  """Returns precision, recall and F1 of each class as `precision:LABEL`, and their macro and weighted averages."""
  report = class_report(targets, predictions)
  found = {f'{kind}_{measure}': report.average(measure, weighted=kind == 'weighted')
           for kind in ('macro', 'weighted') for measure in MEASURES}
  return found | {f'{measure}:{label}': float(getattr(report, measure)[i]) for i, label in enumerate(report.labels)
                  for measure in MEASURES}


@dataclasses.dataclass(frozen=True)
class Average:
  """A macro or weighted average over classes.

  Attributes:
    measure: precision, recall or f1.
    weighted: whether classes count as often as they are targets.
    name: the name of its value.
  """

  measure: str
  weighted: bool
  name: str

  @property
  def __name__(self) -> str:
    return self.name

  def __call__(self, targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Returns the average, in percent."""
    return {self.name: class_report(targets, predictions, self.name).average(self.measure, weighted=self.weighted)}


AVERAGES = {each.name: each for each in (
  *(Average(measure, False, measure) for measure in MEASURES),
  *(Average(measure, True, f'weighted_{measure}') for measure in MEASURES))}


@dataclasses.dataclass(frozen=True)
class BinaryF1:
  """A measure of one label against all others; `metrics.get('f1:equivalent')` makes it.

  Attributes:
    positive: the label whose predictions count.
    measure: f1, precision or recall.
  """

  positive: str
  measure: str = 'f1'

  def __call__(self, targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns the measure of the positive label, under the name `f1:LABEL`.

    Raises:
      ValueError: no target has the label.
    """
    name, positive = f'{self.measure}:{self.positive}', normal(self.positive)
    targets, predictions = labels(targets, predictions, name)
    self.require(targets)
    score = getattr(library('sklearn.metrics', self.measure), f'{self.measure}_score')
    found = score([t == positive for t in targets], [p == positive for p in predictions], zero_division=0.0)
    return {name: 100.0 * float(found)}

  def require(self, targets: Sequence[str]) -> None:
    """Raises ValueError if no target has the label."""
    name, positive = f'{self.measure}:{self.positive}', normal(self.positive)
    known = sorted(set(labels(targets, targets, '')[0]))
    if positive not in known:
      raise ValueError(f'The metric {name} cannot be computed: none of the {len(targets)} targets is '
                       f'{self.positive!r}; found {", ".join(map(repr, known[:10]))}{" …" if known[10:] else ""}.'
                       f'{nearest(positive, known)} Name one of these labels, or evaluate more examples.')


def ece(targets: Sequence[Any], predictions: Sequence[Any],
        confidences: Sequence[float] | None = None) -> dict[str, float]:
  """Returns the expected calibration error in percent (Guo et al. 2017): Σ_b n_b / n · |accuracy_b − confidence_b|.

  Args:
    targets: the targets.
    predictions: one for each target.
    confidences: the probability of each prediction, of which 15 bins of equal width are made.

  Raises:
    ValueError: the counts differ, or there are no confidences.
  """
  right = np.array([normal(target) == normal(prediction) for target, prediction in pairs(targets, predictions)], float)
  if confidences is None or len(confidences) != len(right):
    raise ValueError(f'The metric ece needs the probability of each of {len(right)} predictions, but got '
                     f'{0 if confidences is None else len(confidences)}. Give confidences=.')
  shares = np.clip(np.asarray(confidences, float), 0.0, 1.0)
  bins = np.minimum((shares * _BINS).astype(int), _BINS - 1)
  gaps = [abs(np.sum(right[bins == each] - shares[bins == each])) for each in np.unique(bins)]
  return {'ece': 100.0 * float(np.sum(gaps)) / len(right)}


ece.needs_confidence = True  # evaluations hand it the probabilities of predictions
