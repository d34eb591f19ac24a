"""Evaluations during training: the tasks to evaluate on, the period, and the best step so far."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from prompt_tuning.data.class_metrics import classes
from prompt_tuning.data.metric_values import lower_is_better
from prompt_tuning.data.pipeline import eval_batches
from prompt_tuning.data.target_checks import require_labels
from prompt_tuning.data.tasks import Mixture, Task, short_names
from prompt_tuning.decoding.samplers import BeamSearch, Sampler
from prompt_tuning.evaluation.evaluate import Evaluation, evaluate, evaluate_loss, is_own, value_of, write
from prompt_tuning.losses import Loss
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.names import nearest, require_number
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.training.metric_log import MetricLog, Silence


@dataclasses.dataclass(frozen=True)
class Evaluations:
  """The evaluations of a run during training.

  Attributes:
    task: the task to evaluate on, with its metrics and the loss; None means the training task.
    split: the split to evaluate on.
    period: steps from one evaluation to the next.
    loss_steps: batches of given targets for the loss; 0 means none.
    examples: the number of examples to generate predictions for; 0 means none, None means all.
    written: the number of predictions to write; None means all.
    lengths: maximum tokens of 'inputs' and 'targets'; None means those of training.
    sampler: chooses the tokens.
    objective: the metric, or 'loss', that determines the best step; None means the first metric.
    patience: stop after this many evaluations without improvement; None never stops early.

  Raises:
    ValueError: a number is out of range.
  """

  task: Task | Mixture | None = None
  split: str = 'validation'
  period: int = 1000
  loss_steps: int = 20
  examples: int | None = None
  written: int | None = None
  lengths: Mapping[str, int] | None = None
  sampler: Sampler = BeamSearch()
  objective: str | None = None
  patience: int | None = None

  def __post_init__(self) -> None:
    require_number('period', self.period, least=1, whole=True)
    require_number('loss_steps', self.loss_steps, least=0, whole=True)
    for name, least in (('examples', 0), ('written', 0), ('patience', 1)):
      require_number(name, getattr(self, name), least=least, whole=True, none=True)

  @property
  def anything(self) -> bool:
    """Whether anything is evaluated at all."""
    return self.loss_steps > 0 or self.examples != 0


def require_splits(task: Task | Mixture, split: str, evaluations: Evaluations) -> None:
  """Raises ValueError if a split for training or evaluation is missing, now rather than after many steps."""
  task.parts(split)
  if evaluations.anything:
    (evaluations.task or task).parts(evaluations.split)
    require_objective(evaluations.objective, evaluations.task or task, evaluations)


def require_tasks(names: Sequence[str] | None, task: Task | Mixture, evaluations: Evaluations) -> None:
  """Raises ValueError if a task to evaluate on is none of those that have prompts of their own."""
  if not evaluations.anything or names is None or len(names) == 1:
    return
  for part, _ in (evaluations.task or task).parts(evaluations.split):
    if part.name not in names:
      raise ValueError(f'The task {part.name} cannot be evaluated: the run trains prompts of the tasks '
                       f'{", ".join(names)}. Evaluate on these.')


def require_objective(objective: str | None, task: Task | Mixture, evaluations: Evaluations) -> None:
  """Ensures that the metrics can be computed and have the objective, as far as that is known before predictions are.

  Raises:
    ValueError: they cannot, or have not.
    ImportError: a library of a metric is not installed.
  """
  parts = [part for part, _ in task.parts(evaluations.split)]
  known = [f'{name}/loss' for name in short_names(parts)] if evaluations.loss_steps else []
  for part, name in zip(parts, short_names(parts), strict=True) if evaluations.examples != 0 else ():
    require_labels(part, evaluations.split, evaluations.examples)
    examples = part.split(evaluations.split)
    texts = [example for example in (examples[i] for i in range(min(100, len(examples))))
             if isinstance(example.get('targets'), str)]
    targets = [part.value(example['targets'], example, is_target=True) for example in texts]
    if not texts or part.score_metrics or not all(map(is_own, part.metrics)):
      return  # a user's function is called with predictions alone
    try:  # targets as their own predictions have the names of the metrics
      sure = [{'confidence': 1.0}] * len(targets)
      known += [f'{name}/{key}' for metric in part.metrics for key in value_of(metric, part, targets, targets, sure)]
    except ImportError:
      raise
    except Exception:  # of a metric that compares other values, such as several references
      return
    if classes in part.metrics:  # further examples may have further classes
      return
  if objective is not None and known and not any(objective in (name, name.split('/', 1)[1]) for name in known):
    raise ValueError(f'objective={objective!r} is not among the metrics.{nearest(objective, known)} Use one of '
                     f'{", ".join(known)}.')


def require_targets(loss: Loss, task: Task | Mixture, split: str, model: LanguageModel,
                    lengths: Mapping[str, int]) -> None:
  """Raises ValueError if a target does not suit the loss; endless splits are not checked."""
  for each, _ in task.parts(split) if loss.checks else ():
    examples = each.split(split)
    if not hasattr(examples, 'draw'):
      batches = eval_batches(examples, model.vocabulary, model.layout(), batch_size=32, lengths=lengths,
                             fields=loss.fields)
      for batch, _ in batches.weighted() if loss.fields else batches:
        loss.check(batch)


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Evaluates a run at a step.

  Attributes:
    model: the frozen model.
    task: the training task.
    lengths: maximum tokens of 'inputs' and 'targets' in training.
    batch_size: rows per batch.
    loss: as in training.
    evaluations: the evaluations to do.
    folder: the run's folder, for predictions; None writes none.
    split: the split to train on.
  """

  model: LanguageModel
  task: Task | Mixture
  lengths: Mapping[str, int]
  batch_size: int
  loss: Loss
  evaluations: Evaluations
  folder: str | None = None
  split: str = 'train'

  def __call__(self, conditioning: Callable[[str], Conditioning], layout: Layout, step: int, log: MetricLog | Silence,
               heed: Callable[[], None] | None = None) -> dict[str, float]:
    """Returns 'task/metric' -> value, and writes figures and predictions; {} if nothing is evaluated.

    Args:
      conditioning: returns the model's conditioning for a task, by name.
      layout: the layout of examples.
      step: the global step.
      log: takes the figures, once all tasks are evaluated.
      heed: called before each batch; what it raises ends the evaluation, of which nothing is written then.
    """
    chosen = self.evaluations
    if not chosen.anything:
      return {}
    common = {'split': chosen.split, 'batch_size': self.batch_size, 'heed': heed}
    found: list[tuple[str, dict[str, float] | None, Evaluation | None]] = []
    tasks = [each for each, _ in (chosen.task or self.task).parts(chosen.split)]
    for each, name in zip(tasks, short_names(tasks), strict=True):
      values = result = None
      if chosen.loss_steps:
        values = evaluate_loss(self.model, conditioning(each.name), layout, each, lengths=self.lengths,
                               steps=chosen.loss_steps, loss=self.loss, **common)
      if chosen.examples != 0 and (each.metrics or each.score_metrics):
        result = evaluate(self.model, conditioning(each.name), layout, each, sampler=chosen.sampler,
                          lengths=chosen.lengths or self.lengths, num_examples=chosen.examples, **common)
      found.append((name, values, result))
    metrics: dict[str, float] = {}
    for name, values, result in found:
      if values is not None:
        log.write(step, values, folder=f'training_eval/{name}')
        metrics[f'{name}/loss'] = values['loss']
      if result is not None:
        log.write(step, result.metrics, folder=f'inference_eval/{name}')
        metrics.update({f'{name}/{metric}': value for metric, value in result.metrics.items()})
        self._write(name, step, result)
    rows = ' (training rows)' if chosen.task is None and chosen.split == self.split else ''
    log.say(f'step {step}{rows}: ' + ', '.join(f'{name} {value:.4g}' for name, value in metrics.items()))
    return metrics

  def _write(self, name: str, step: int, result: Evaluation) -> None:
    if self.folder is not None:
      write(result, self.folder, name, step, most=self.evaluations.written)
    cut = result.truncated
    if cut['inputs'] or cut['targets']:
      logging.warning('Evaluating %s cut %d inputs and %d targets of %d examples at the lengths %s.', name,
                      cut['inputs'], cut['targets'], cut['examples'], dict(self.evaluations.lengths or self.lengths))


def compare(metrics: Mapping[str, float], wanted: str | None,
            best: Mapping[str, Any] | None) -> tuple[str, float, bool]:
  """Returns the name and value of the objective at a step, and True if it is the best so far.

  A smaller loss or calibration error is better, and a larger value of every other metric. For several tasks, the mean
  counts. A NaN is worse than every number, and never the best.

  Args:
    metrics: 'task/metric' -> value.
    wanted: the metric, with or without its task; None means the first metric that is not a loss.
    best: the best step so far.

  Raises:
    ValueError: there is no such metric.
  """
  if not metrics:
    return 'step', 0.0, True
  of_loss = [name for name in metrics if name.endswith('/loss')]
  names = [name for name in metrics if name.split('/', 1)[1] == wanted or name == wanted] if wanted else (
    [name for name in metrics if name not in of_loss] or of_loss)
  if not names:
    raise ValueError(f'objective={wanted!r} is not among the metrics.{nearest(wanted or "", metrics)} '
                     f'Use one of {", ".join(metrics)}.')
  values = [metrics[name] for name in names if name.split('/', 1)[1] == names[0].split('/', 1)[1]]
  name, value = names[0], sum(values) / len(values)
  lower = lower_is_better(name)
  better = not math.isnan(value) and (best is None or math.isnan(best['value']) or (
    value < best['value'] if lower else value > best['value']))
  return name, value, better
