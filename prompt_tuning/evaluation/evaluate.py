"""Evaluation of a frozen model with its trained tensors: the loss of given targets, and metrics of its predictions."""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from prompt_tuning.data.class_metrics import ClassReport, class_report, classes
from prompt_tuning.data.head_metrics import METRICS
from prompt_tuning.data.metrics import accuracy
from prompt_tuning.data.pipeline import EvalBatches, eval_batches
from prompt_tuning.data.target_checks import require_labels_of_head
from prompt_tuning.data.tasks import Mixture, Task, with_metrics
from prompt_tuning.data.vocabulary import until_end
from prompt_tuning.decoding.samplers import Sampler
from prompt_tuning.devices import multihost, sharding
from prompt_tuning.evaluation.predictions import (
  generate_answers,
  label_answers,
  readable,
  score_targets,
  text_of,
  write_lines,
)
from prompt_tuning.evaluation.ranking import Ranked, rank
from prompt_tuning.files import json_files, storage
from prompt_tuning.losses import Loss, averages
from prompt_tuning.models import heads
from prompt_tuning.models.compiled import hidden_states
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.types import Array, Batch, Params


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The result of evaluating one task.

  Attributes:
    task: the task's name.
    metrics: name -> value, in the task's order.
    lines: one dict for each example, as in T5X's files: 'input', 'target', and the values that the metrics need: the
      model's 'output' and the 'prediction' that the task makes of it, or the target's 'score'; and the
      'confidence', which is the probability of the prediction, if words are ranked or a metric needs it.
    truncated: how many inputs and targets exceeded the lengths, and how many examples there are.
    classes: what was predicted for each class, if the task has the metric `classes`.
  """

  task: str
  metrics: Mapping[str, float]
  lines: Sequence[Mapping[str, Any]]
  truncated: Mapping[str, int]
  classes: ClassReport | None = None


def evaluate(model: LanguageModel, conditioning: Conditioning, layout: Layout | Any, task: Task, *, sampler: Sampler,
             split: str = 'validation', lengths: Mapping[str, int] | None = None, batch_size: int = 32,
             num_examples: int | None = None, max_length: int | None = None, seed: int = 0,
             ranked: Ranked | None = None, heed: Callable[[], None] | None = None) -> Evaluation:
  """Generates predictions for a split's inputs and compares them with the targets.

  Args:
    model: the frozen model, with a vocabulary.
    conditioning: the model's conditioning.
    layout: the layout of examples; of an ensemble those of its members, see `predictions.conditioned`.
    task: provides examples and metrics.
    sampler: chooses the tokens; the best sequence counts.
    split: the split to evaluate on.
    lengths: maximum tokens of 'inputs' and 'targets'; an absent one is the longest found.
    batch_size: rows per batch.
    num_examples: evaluate on only this many examples, from the first.
    max_length: maximum number of generated tokens; None means the targets' length.
    seed: for samplers that draw.
    ranked: predict the most likely of its words, without generation. This adds 'accuracy', whatever the task's metrics;
      a line's 'scores' are those of all words.
    heed: called before each batch; what it raises ends the evaluation.

  Raises:
    ValueError: the task has no metrics, no such split or no examples; or a target is not among the words to rank.
  """
  head = heads.described(model)
  if head:
    require_labels_of_head(task, split, model.layout(), num_examples)
    task = _of_head(task, head, ranked)
  if not (task.metrics or task.score_metrics or ranked):
    raise ValueError(f'The task {task.name} has no metrics. Give some, such as metrics=("accuracy",).')
  batches = eval_batches(task.split(split), model.vocabulary, layout, batch_size=batch_size, lengths=lengths,
                         num_examples=num_examples)
  batches.heed = heed or batches.heed
  examples, vocabulary = batches.examples, model.vocabulary
  _require_targets(task, split, examples)
  lines: list[dict[str, Any]] = []
  for example in examples:
    target = task.value(text_of(example, 'targets', vocabulary), example, is_target=True)
    lines.append({'input': readable(example, vocabulary), 'target': target})
  metrics: dict[str, float] = {}
  if ranked is not None:
    metrics |= _rank(model, conditioning, batches, ranked, lines, task)
  elif head:
    _classify(model, conditioning, batches, lines, task)
  elif task.metrics:
    answers = generate_answers(model, conditioning, batches, sampler=sampler, seed=seed,
                               max_length=max_length or batches.texts['targets'])
    ids = []
    for example, line, (tokens, _) in zip(examples, lines, answers, strict=True):
      ids.append(tokens[-1].tolist())
      line['output'] = vocabulary.decode(ids[-1])
      line['prediction'] = task.value(line['output'], example, is_target=False)
    if any(getattr(metric, 'needs_confidence', False) for metric in task.metrics):
      scores = _score_outputs(model, conditioning, layout, examples, ids, batch_size)
      for line, score in zip(lines, scores, strict=True):
        line['confidence'] = math.exp(score)
  if task.score_metrics:
    for line, score in zip(lines, score_targets(model, conditioning, batches), strict=True):
      line['score'] = score
  return Evaluation(task.name, metrics | metrics_of(task, lines), lines, batches.truncated, report_of(task, lines))


def write(result: Evaluation, folder: str, name: str, step: int, *, most: int | None = None) -> None:
  """Writes the lines of an evaluation, `most` of them, and the report by class, into `inference_eval` of a folder."""
  path = storage.join(folder, 'inference_eval', f'{name}-{step:06}')
  write_lines(f'{path}.jsonl', iter(result.lines[:most]))
  if result.classes is not None and multihost.is_main():
    storage.write_bytes(f'{path}-classes.json', json_files.spelled(result.classes.plain(), ensure_ascii=False).encode())


def metrics_of(task: Task, lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Returns a task's metrics of the lines of an evaluation."""
  targets = [line['target'] for line in lines]
  found: dict[str, float] = {}
  for functions, compared in ((task.metrics, 'prediction'), (task.score_metrics, 'score')):
    for metric in functions:
      _add(found, metric, value_of(metric, task, targets, [line[compared] for line in lines], lines), task)
  return found


def value_of(metric: Any, task: Task, targets: Sequence[Any], values: Sequence[Any],
             lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
  """Returns what a metric returns, by name. Raises ValueError if a user's function fails, or returns something else."""
  name = getattr(metric, '__name__', type(metric).__name__)
  given: dict[str, Any] = {}
  if getattr(metric, 'needs_confidence', False):
    given['confidences'] = [line['confidence'] for line in lines if line.get('confidence') is not None]
  try:
    found = metric(list(targets), list(values), **given)  # a user's function may change its arguments
  except Exception as error:
    if is_own(metric):
      raise
    raise ValueError(f'The metric {name} of the task {task.name} failed ({type(error).__name__}: {error}). It is '
                     f'called with {len(targets)} targets and as many predictions. Fix it, or leave it out.') from error
  found = {name: found} if _is_number(found) else found
  by_name = isinstance(found, Mapping) and all(isinstance(key, str) for key in found)
  if not by_name or not (found or is_own(metric)):
    raise ValueError(f'The metric {name} of the task {task.name} returns {found!r:.60}, expected a number, or numbers '
                     'by name. Return {name: value}.')
  wrong = next((key for key, value in found.items() if not _is_number(value)), None)
  if wrong is not None:
    raise ValueError(f'The metric {name} of the task {task.name} returns {found[wrong]!r:.60} for {wrong!r}, expected '
                     'a number. Return float(…).')
  return found


def _is_number(value: Any) -> bool:
  return isinstance(value, numbers.Real | np.number | np.bool_) or (isinstance(value, np.ndarray) and value.ndim == 0)


def is_own(metric: Any) -> bool:
  """Returns True for a metric of the package."""
  return str(getattr(metric, '__module__', type(metric).__module__)).startswith('prompt_tuning.')


def report_of(task: Task, lines: Sequence[Mapping[str, Any]]) -> ClassReport | None:
  """Returns the report by class of the lines of an evaluation, if the metrics of the task ask for it."""
  if classes not in task.metrics or not lines or 'prediction' not in lines[0]:
    return None
  return class_report([line['target'] for line in lines], [line['prediction'] for line in lines])


def _score_outputs(model: LanguageModel, conditioning: Conditioning, layout: Any, examples: Sequence[Mapping[str, Any]],
                   ids: Sequence[Sequence[int]], batch_size: int) -> Iterator[float]:
  """Yields the log-likelihood of each prediction with its end token."""
  given = [{**example, 'targets': until_end(each, model.end_ids)}
           for example, each in zip(examples, ids, strict=True)]
  yield from score_targets(model, conditioning, eval_batches(given, model.vocabulary, layout, batch_size=batch_size))


def _require_targets(task: Task, split: str, examples: Sequence[Mapping[str, Any]]) -> None:
  """Raises ValueError if an example has no target to compare with."""
  missing = [i for i, example in enumerate(examples) if 'targets' not in example]
  if missing:
    raise ValueError(f'{len(missing)} of {len(examples)} examples in the split {split!r} of {task.name} have no '
                     f'targets, first example {missing[0]}, so they cannot be evaluated. Give them targets, or only '
                     'predict for them.')


def _add(metrics: dict[str, float], metric: Any, found: Mapping[str, Any], task: Task) -> None:
  """Adds the values of a metric; raises ValueError if another metric has another value of the same name."""
  for name, value in found.items():
    same = is_own(metric) and math.isclose(metrics.get(name, math.nan), float(value))  # as of f1 and classes
    if name in metrics and not same:
      raise ValueError(f'The metric {getattr(metric, "__name__", metric)} of the task {task.name} returns {name!r}, '
                       'which another metric returns too. Give each a unique name.')
    metrics[name] = float(value)


def _rank(model: LanguageModel, conditioning: Conditioning, batches: EvalBatches, ranked: Ranked,
          lines: list[dict[str, Any]], task: Task) -> dict[str, float]:
  """Returns the accuracy of the most likely words, which become the lines' 'output'."""
  targets = [text_of(example, 'targets', model.vocabulary) for example in batches.examples]
  for target in targets:
    ranked.require(target)
  for example, line, scores in zip(batches.examples, lines, rank(model, conditioning, batches, ranked), strict=True):
    line.update(ranked.told(scores))
    line['output'] = ranked.words[int(scores.argmax())]
    line['prediction'] = task.value(line['output'], example, is_target=False)
  return accuracy(targets, [line['output'] for line in lines])


def _of_head(task: Task, head: Mapping[str, Any], ranked: Ranked | None) -> Task:
  """Returns a task with the metrics of a head's problem instead of the accuracy of texts.

  Raises:
    ValueError: words are to be ranked, or the task's metrics compare log-likelihoods of texts.
  """
  if ranked is not None or task.score_metrics:
    raise ValueError(f'The task {task.name} ranks or scores texts, but a model with a classification head predicts '
                     'labels. Leave out the words to rank and metrics of scores.')
  of_problem = METRICS[head['problem']]
  return with_metrics(task, [of_problem if metric is accuracy else metric for metric in task.metrics or (accuracy,)])


def _classify(model: LanguageModel, conditioning: Conditioning, batches: EvalBatches, lines: list[dict[str, Any]],
              task: Task) -> None:
  """Adds the predictions of the model's head to the lines, with the score of each label."""
  found = label_answers(model, conditioning, batches)
  for example, line, (line['output'], line['scores']) in zip(batches.examples, lines, found, strict=True):
    line['prediction'] = task.value(line['output'], example, is_target=False)
    line['confidence'] = max(line['scores'].values())


@functools.partial(jax.jit, static_argnames=('module', 'loss'))
def _sums(module: Any, params: Params, batch: Batch, conditioning: Conditioning, *, loss: Loss) -> dict[str, Array]:
  x, project = hidden_states(module, params, batch, conditioning)
  sums = loss(x, batch, project)[1]
  return sharding.whole(module.config.mesh, sums)


def evaluate_loss(model: LanguageModel, conditioning: Conditioning, layout: Layout, task: Task | Mixture, *,
                  split: str = 'validation', lengths: Mapping[str, int], batch_size: int = 32,
                  steps: int | None = None, loss: Loss = Loss(z_loss=0.0),
                  heed: Callable[[], None] | None = None) -> dict[str, float]:
  """Returns the loss, its two parts and the accuracy of given targets, averaged over their tokens by loss weight.

  A loss that compares rows is averaged over batches.

  Args:
    model: the frozen model.
    conditioning: the model's conditioning.
    layout: the layout of examples.
    task: a task, or a mixture; each of its tasks that have the split counts with all its examples.
    split: the split to evaluate on.
    lengths: maximum tokens of 'inputs' and 'targets'.
    batch_size: rows per batch.
    steps: maximum number of batches per task.
    loss: as in training.
    heed: called before each batch; what it raises ends the evaluation.

  Raises:
    ValueError: a target does not suit the loss.
  """
  total: dict[str, float] = {}
  for each, _ in task.parts(split):
    limit = None if steps is None else steps * batch_size
    batches = eval_batches(each.split(split), model.vocabulary, layout, batch_size=batch_size, lengths=lengths,
                           num_examples=limit, fields=loss.fields)
    batches.heed = heed or batches.heed
    _require_targets(each, split, batches.examples)
    for batch, _ in batches.weighted():
      loss.check(batch)
      sums = _sums(model.module, model.params, batch, conditioning, loss=loss)
      for name, value in sums.items():
        total[name] = total.get(name, 0.0) + float(value)
  return averages(total)
