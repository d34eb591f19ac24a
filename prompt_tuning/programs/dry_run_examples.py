"""The part of a plan about examples: how many there are, what is cut, and what is wrong with targets."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from prompt_tuning.data.pipeline import eval_batches
from prompt_tuning.data.target_checks import check_targets
from prompt_tuning.data.tasks import Task
from prompt_tuning.evaluation import predictions
from prompt_tuning.files import terminal
from prompt_tuning.programs.abstract_models import Outline
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.runs import evaluating, inferring, objects, training
from prompt_tuning.runs.base import Run
from prompt_tuning.runs.eval_run import EvalRun
from prompt_tuning.runs.infer_run import InferRun
from prompt_tuning.runs.train_run import TrainRun


def show_data(run: Run, outline: Outline | None) -> None:
  """Prints the splits of a run's task with an example of each. Raises ValueError if they cannot be read."""
  if isinstance(run, InferRun):
    print(f'Inputs: {len(inferring.examples(run)[0])} of {run.data.name}')
    return
  task = objects.task(run)
  if isinstance(run, TrainRun):
    training.evaluations(run, task)
  for each, _ in task.parts(run.split):
    print(f'Task {each.name}: {_splits(each)}')
    if isinstance(run, EvalRun):
      evaluating.ranked(run, each)
    if outline is not None and outline.vocabulary is not None:
      _show_example(each, run.split, outline)


def show_cut(run: Run, outline: Outline, layout: Layout, lengths: Mapping[str, int]) -> None:
  """Prints how many of the first thousand examples are cut, and what is wrong with their targets."""
  task, short = objects.task(run), dataclasses.replace(layout, prompt_length=min(1, layout.prompt_length))
  for part, _ in task.parts(run.split):
    examples = part.split(run.split)
    batches = eval_batches(examples, outline.vocabulary, short, batch_size=run.batch_size, lengths=lengths,
                           num_examples=min(1000, len(examples)))
    for _ in batches:  # lays them out, which finds tokens without a row of the embedding
      pass
    cut = batches.truncated
    if cut['inputs'] or cut['targets']:
      print(f'  {part.name}: of {cut["examples"]} examples, {cut["inputs"]} inputs and {cut["targets"]} targets are '
            'too long and are cut')
  for warning in check_targets(task, run.split, outline.vocabulary, outline.layout(Layout()), lengths, refuse=True):
    print(f'  Warning: {terminal.in_words(warning)}')


def _splits(task: Task) -> str:
  return ', '.join(f'{name} {"endless" if hasattr(examples, "draw") else len(examples)}'
                   for name, examples in task.splits.items())


def _show_example(task: Task, split: str, outline: Outline) -> None:
  example = task.split(split)[0]
  for feature in ('inputs', 'targets'):
    value = example[feature]
    if np.ndim(value) == 2:
      print(f'  {feature}: {len(value)} vectors of {len(value[0])} numbers')
      continue
    text = predictions.text_of(example, feature, outline.vocabulary)
    count = len(outline.vocabulary.encode(value)) + 1 if isinstance(value, str) else len(value)
    print(f'  {feature}: {text[:60]!r}, {count} tokens')
