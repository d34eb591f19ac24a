"""Metrics by class and of calibration, and metrics that users give as functions."""

import json

import numpy as np
import pytest

from prompt_tuning.data import class_metrics, metrics
from prompt_tuning.data.class_metrics import class_report, ece
from prompt_tuning.data.metric_values import lower_is_better
from prompt_tuning.data.tasks import Task
from prompt_tuning.evaluation.evaluate import metrics_of, report_of

TARGETS = ['a', 'a', 'a', 'b', 'b', 'c']
PREDICTIONS = ['a', 'a', 'b', 'b', 'x', 'a ']


def test_the_report_counts_targets_by_prediction():
  report = class_report(TARGETS, PREDICTIONS)
  assert report.labels == ('a', 'b', 'c') and report.support.tolist() == [3, 2, 1]
  assert report.confusion.tolist() == [[2, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]]  # the last column is anything else
  np.testing.assert_allclose(report.precision, [200 / 3, 50, 0])
  np.testing.assert_allclose(report.recall, [200 / 3, 50, 0])
  assert report.average('f1', weighted=True) == pytest.approx((3 * 200 / 3 + 2 * 50) / 6)
  text = str(report)
  assert text.splitlines()[1].split() == ["'a'", '66.7', '66.7', '66.7', '3']
  assert text.splitlines()[-1].split() == ["'c'", '1', '0', '0', '0']
  assert json.loads(json.dumps(report.plain()))['confusion'][1] == [0, 1, 0, 1]


def test_the_metrics_by_class_have_the_names_of_labels_and_averages():
  found = metrics.get('classes')(TARGETS, PREDICTIONS)
  assert found['precision:a'] == found['recall:a'] == pytest.approx(200 / 3) and found['f1:c'] == 0
  assert found['macro_recall'] == pytest.approx((200 / 3 + 50) / 3)
  for name in ('precision', 'recall', 'f1'):
    assert metrics.get(name)(TARGETS, PREDICTIONS) == {name: found[f'macro_{name}']}
    assert metrics.get(f'weighted_{name}')(TARGETS, PREDICTIONS) == {f'weighted_{name}': found[f'weighted_{name}']}
    assert metrics.get(f'{name}:b')(TARGETS, PREDICTIONS) == {f'{name}:b': found[f'{name}:b']}


def test_the_calibration_error_is_the_gap_of_each_bin():
  # Two predictions in the bin of 0.9, one of them right; one in the bin of 0.3, wrong.
  found = ece(['a', 'a', 'b'], ['a', 'b', 'a'], [0.9, 0.9, 0.3])
  assert found['ece'] == pytest.approx(100 * (abs(1 - 1.8) + abs(0 - 0.3)) / 3)
  assert ece(['a'], ['a'], [1.0])['ece'] == 0
  with pytest.raises(ValueError, match='ece needs the probability of each of 1 predictions, but got 0'):
    ece(['a'], ['a'])
  assert lower_is_better('t/ece') and lower_is_better('t/loss') and not lower_is_better('t/accuracy')


def lines(**more):
  return [{'target': 'a', 'prediction': 'a', **more}, {'target': 'b', 'prediction': 'a', **more}]


def task(*functions):
  return Task('t', {}, functions)


def test_a_metric_that_needs_probabilities_gets_those_of_the_lines():
  assert metrics_of(task(ece), lines(confidence=0.5)) == {'ece': 0.0}
  assert report_of(task(class_metrics.classes), lines()).confusion.tolist() == [[1, 0, 0], [1, 0, 0]]
  assert report_of(task(ece), lines()) is None


def half(targets, predictions):
  return sum(t == p for t, p in zip(targets, predictions, strict=True)) / len(targets)


def test_a_function_may_return_one_number_or_several_by_name():
  assert metrics_of(task(half, lambda t, p: {'count': np.int64(len(t))}), lines()) == {'half': 0.5, 'count': 2.0}


@pytest.mark.parametrize('function, message', [
  (lambda t, p: t[9], r'The metric <lambda> of the task t failed \(IndexError: .*It is called with 2 targets'),
  (lambda t, p: 'good', r"returns 'good', expected a number, or numbers by name"),
  (lambda t, p: {'x': None}, r"returns None for 'x', expected a number")])
def test_a_function_that_fails_is_named(function, message):
  with pytest.raises(ValueError, match=message):
    metrics_of(task(function), lines())


def test_a_metric_can_be_a_function_of_a_module(tmp_path, monkeypatch):
  (tmp_path / 'own_metrics.py').write_text('def half(targets, predictions):\n  return 0.5\n')
  (tmp_path / 'broken_metrics.py').write_text('1 / 0\n')
  monkeypatch.syspath_prepend(tmp_path)
  assert metrics.get('own_metrics:half')([], []) == 0.5
  for name, error, message in (
      ('own_metrics:haf', ValueError, r"own_metrics has no function 'haf'. Did you mean half\? Write MODULE:FUNCTION"),
      ('own_metric:half', ValueError, r"no metric 'own_metric:half': there is no module own_metric. Start the program"),
      ('broken_metrics:half', ImportError, r'cannot be imported: ZeroDivisionError'),
      (':half', ValueError, r"it has no function 'half'"),
      ('precision:', ValueError, r"There is no metric 'precision:'")):
    with pytest.raises(error, match=message):
      metrics.get(name)


def test_metrics_are_given_as_names_or_functions():
  assert metrics.functions(['accuracy', half]) == (metrics.accuracy, half)
  assert metrics.functions(half) == (half,) and metrics.functions('f1') == (metrics.f1,)
  with pytest.raises(ValueError, match='metrics=accuracy,accuracy names accuracy twice'):
    metrics.functions(['accuracy', 'accuracy'])
  with pytest.raises(ValueError, match=r'metrics= has 3, expected names of metrics, or functions'):
    metrics.functions([3])
