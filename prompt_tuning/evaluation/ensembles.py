"""Evaluation of ensembles: what conditions their batches, votes, and the figures of the members beside the whole's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.metric_values import lower_is_better
from prompt_tuning.data.metrics import accuracy
from prompt_tuning.data.tasks import Task
from prompt_tuning.evaluation.evaluate import Evaluation, evaluate, metrics_of, report_of
from prompt_tuning.evaluation.predictions import conditioned, infer
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.models.ensembles import Ensemble, ranked
from prompt_tuning.models.language_model import LanguageModel


def evaluate_trained(model: LanguageModel, trained: Trained | Ensemble, task: Task, **settings: Any) -> Evaluation:
  """Returns the evaluation of a frozen model with trained tensors, or with an ensemble of them.

  Args:
    model: the frozen model.
    trained: what conditions it; members of an ensemble are `Trained` too.
    task: provides examples and metrics.
    **settings: of `evaluate`.
  """
  if isinstance(trained, Ensemble) and trained.kind == 'vote':
    return elected([evaluate_trained(model, member, task, **settings) for member in trained.members], task)
  return evaluate(model, *conditioned(model, trained, task.name), task, **settings)


def elected(members: Sequence[Evaluation], task: Task) -> Evaluation:
  """Returns the evaluation of the members' vote: for each example the most frequent output, of these the earliest.

  Raises:
    ValueError: a metric of the task needs scores of targets, which a vote does not have.
  """
  if task.score_metrics:
    raise ValueError(f"kind='vote' cannot be used for {task.name}, whose metrics compare scores of targets: a vote has "
                     "none. Use kind='mean'.")
  lines = [ranked(each, lambda line: line['output'])[0] for each in zip(*(one.lines for one in members), strict=True)]
  metrics = metrics_of(task, lines)
  if lines and 'scores' in lines[0]:  # of ranked words
    metrics = accuracy([line['input']['targets_pretokenized'] for line in lines], [line['output'] for line in lines]
                       ) | metrics
  return Evaluation(task.name, metrics, lines, members[0].truncated, report_of(task, lines))


def infer_trained(model: LanguageModel, trained: Trained | Ensemble, examples: Sequence[Mapping[str, Any]],
                  **settings: Any) -> Iterator[dict[str, Any]]:
  """Yields the lines of `infer`, or those that the members of an ensemble elect."""
  if not (isinstance(trained, Ensemble) and trained.kind == 'vote'):
    yield from infer(model, trained, examples, **settings)
    return
  if settings.get('mode') == 'score':
    trained.require_mean('scores')
  members = [infer(model, member, examples, **settings) for member in trained.members]
  for lines in zip(*members, strict=True):
    yield ranked(lines, lambda line: line['prediction'])[0]


def of_members(members: Mapping[str, Evaluation]) -> dict[str, dict[str, float]]:
  """Returns the metrics of each member, their mean, and those of the best, by its first metric.

  Args:
    members: name -> evaluation.
  """
  names = list(next(iter(members.values())).metrics)
  found = {label: dict(each.metrics) for label, each in members.items()}
  choose = min if lower_is_better(names[0]) else max
  best = choose(found, key=lambda label: found[label][names[0]])
  return {**found, f'mean of {len(found)}': {name: float(np.mean([each[name] for each in found.values()]))
                                             for name in names}, f'best ({best})': found[best]}
