"""Examples and prompts in the forms in which Python code gives them, and the task and tensors that they stand for."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from prompt_tuning.data import files, registry, tasks
from prompt_tuning.data import metrics as metric_functions
from prompt_tuning.data.metrics import accuracy
from prompt_tuning.evaluation import saved
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.training import loop

# A task or its name, a file of rows, or what `tables.records` reads: DataFrames, datasets, dicts, pairs.
Examples = str | os.PathLike | tasks.Task | tasks.Mixture | Mapping[str, Any] | Iterable[Any]
_LEAST = 10  # rows of which a tenth can be held out
_METRICS = (accuracy,)


def as_task(examples: Examples, split: str, model: LanguageModel, lengths: Mapping[str, int] | None = None, *,
            held_out: float = 0.0, metrics: Any = None) -> tasks.Task | tasks.Mixture:
  """Returns a task made of any form of examples; rows that are not a task become the split of that name.

  Args:
    examples: as for `tune`, or a dict of splits.
    split: the split of rows.
    model: its vocabulary tokenises SeqIO tasks.
    lengths: maximum tokens, for SeqIO tasks that make examples of these lengths.
    held_out: the share of rows for the split 'validation', by a hash of their columns; none of fewer than ten rows.
    metrics: functions or names that replace the metrics of the task; None keeps them.

  Raises:
    ValueError: something is not an example; the message says which.
  """
  if metrics is not None:
    functions = metric_functions.functions(metrics)
    return _with_metrics(as_task(examples, split, model, lengths, held_out=held_out), functions)
  if isinstance(examples, tasks.Task | tasks.Mixture):
    return examples
  if isinstance(examples, str | os.PathLike):
    return registry.get(str(examples), model.vocabulary, lengths)
  if _is_splits(examples):
    parts = {name: files.FileTask(table, validation=0.0, vocabulary=model.vocabulary)
             for name, table in examples.items()}
    return tasks.Task('examples', {name: part.split('all') for name, part in parts.items()}, _METRICS)
  task = files.FileTask(examples, name='examples', validation=held_out, vocabulary=model.vocabulary)
  unused = {name for each in task.split('all') for name in each['row']} & set(tasks.RESERVED) - {'inputs', 'targets'}
  if unused:
    logging.warning('The columns %s of the examples have no meaning here. `FileTask(…, loss_weight=COLUMN)` reads loss '
                    'weights; for the others, make a Task.', ', '.join(sorted(unused)))
  if len(task.split('all')) >= _LEAST and task.splits['train'] and task.splits['validation']:
    return task
  return tasks.Task('examples', {split: task.split('all')}, _METRICS)


def is_rows(examples: Examples) -> bool:
  """Returns True for rows, which have no splits."""
  return not isinstance(examples, tasks.Task | tasks.Mixture | str | os.PathLike) and not _is_splits(examples)


def _with_metrics(task: tasks.Task | tasks.Mixture, functions: tuple[Any, ...]) -> tasks.Task | tasks.Mixture:
  """Returns a task with other metrics."""
  if isinstance(task, tasks.Mixture):
    return tasks.Mixture(task.name, tuple(_with_metrics(part, functions) for part in task.tasks), task.rates)
  return tasks.with_metrics(task, functions)


def as_trained(prompt: Any, model: LanguageModel) -> saved.Trained:
  """Returns the trained tensors that a prompt in any form stands for.

  Args:
    prompt: see `evaluate`.
    model: the frozen model, for which a PEFT adapter is read.

  Raises:
    FileNotFoundError: there is no such file or folder.
    ValueError: it holds nothing that conditions this model.
  """
  if isinstance(prompt, loop.Run):
    prompt = prompt.folder
  if prompt is None or isinstance(prompt, saved.Trained):
    return prompt or saved.Trained({})
  if isinstance(prompt, saved.SavedPrompt):
    return prompt.as_trained()
  if isinstance(prompt, str | os.PathLike):
    return saved.load_for(model, str(prompt))
  try:
    vectors = np.asarray(prompt, np.float32)
  except (TypeError, ValueError):
    vectors = np.zeros(0)
  if vectors.ndim != 2:
    raise ValueError(f'The prompt is of type {type(prompt).__name__}, expected an array [P, {model.width}], a saved '
                     'prompt, a run, or the path of one.')
  return saved.SavedPrompt(vectors).as_trained()


def _is_splits(examples: Any) -> bool:
  """Returns True for a dict of splits, False for a dict of columns."""
  return isinstance(examples, Mapping) and bool(examples) and all(map(_is_table, examples.values()))


def _is_table(examples: Any) -> bool:
  """Returns True for the rows of a split, False for the values of a column."""
  if hasattr(examples, 'columns') or hasattr(examples, 'column_names') or isinstance(examples, Mapping):
    return True
  return isinstance(examples, Sequence) and len(examples) > 0 and isinstance(examples[0], Mapping | tuple)
