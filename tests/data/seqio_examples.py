"""Shared by the tests of SeqIO tasks: reading examples, and computing metrics as SeqIO does."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import seqio

from prompt_tuning.data import seqio_tasks

FEATURES = {key: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for key in ('inputs', 'targets')}
FORMS = ('', 'taskless_', 'task_index_')


def in_all_vocabularies(names: list[str]) -> set[str]:
  return {f'{prefix}{name}{suffix}' for prefix in ('', 'mt5_', 'byt5_') for name in names
          for suffix in ('', '_examples')}


@contextlib.contextmanager
def task_in(data_dir: Any, name: str) -> Iterator[seqio.Task]:
  """The task with its data in `data_dir` instead of SeqIO's default folder."""
  task = seqio.TaskRegistry.get(name)
  task.source.tfds_dataset.override_data_dir(str(data_dir))
  try:
    yield task
  finally:
    task.source.tfds_dataset.override_data_dir(None)


@functools.cache
def read(data_dir: Any, name: str, split: str) -> list[dict[str, Any]]:
  """Returns the preprocessed examples of a split with 'inputs' and 'targets' as texts, not tokenised."""
  with task_in(data_dir, name) as task:
    dataset = task.preprocessors[0](task.source.get_dataset(split, shuffle=False))
    return [seqio_tasks.plain(each) for each in dataset.as_numpy_iterator()]


def read_tokens(data_dir: Any, name: str, split: str) -> list[dict[str, Any]]:
  """Returns the examples of a split from SeqIO, tokenised as bytes."""
  with task_in(data_dir, name) as task:
    dataset = task.replace(output_features=FEATURES).get_dataset(None, split, shuffle=False)
    return [seqio_tasks.plain(each) for each in dataset.as_numpy_iterator()]


def texts(examples: list[dict[str, Any]]) -> list[tuple[str, str]]:
  return [(each['inputs'], each['targets']) for each in examples]


def right_answers(examples: list[dict[str, Any]]) -> list[str]:
  return [each['targets'] for each in examples]


def judge(name: str, examples: list[dict[str, Any]], answers: list[str]) -> dict[str, float]:
  """Returns the task's metrics of predictions, without logging examples."""
  task = seqio.TaskRegistry.get(name)
  targets = [task.postprocess_fn(each['targets'], example=each, is_target=True) for each in examples]
  predictions = [task.postprocess_fn(answer, example=each, is_target=False)
                 for answer, each in zip(answers, examples, strict=True)]
  found: dict[str, float] = {}
  for metric in task.predict_metric_fns:
    found |= metric(targets, predictions)
  return found
