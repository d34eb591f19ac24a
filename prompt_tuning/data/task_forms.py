"""The three forms of a benchmark's tasks: plain, `taskless_` and `task_index_`.

T5 was trained with a text before the inputs that names the task, `sst2 sentence: ...`. A prompt identifies the task
too, so `taskless_` leaves the text out. `task_index_` puts a single token there instead: the number of the task, with
which a model with several prompts selects one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from prompt_tuning.data import seqio_tasks, text_to_text
from prompt_tuning.data.tasks import Metric

FORMS = ('', 'taskless_', 'task_index_')
ALL_SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """One task of a benchmark, without its form.

  Attributes:
    config: config of the TensorFlow Dataset, such as 'sst2'.
    lead: leading task text of the plain form. Tasks that a model treats as one, such as MNLI's sets, share it.
    preprocess: makes the examples, without leading text.
    metrics: see `seqio_tasks.add_tfds_task`.
    postprocess: see `seqio_tasks.add_tfds_task`.
    splits: splits of the dataset and of the task.
    labels: all target words, if there are few.
  """

  config: str
  lead: str
  preprocess: text_to_text.Preprocess
  metrics: Sequence[Metric]
  postprocess: Any = None
  splits: Sequence[str] = ALL_SPLITS
  labels: Sequence[str] = ()


def add_forms(name: str, dataset: str, benchmark: Benchmark, leads: Sequence[str]) -> list[str]:
  """Adds a task in its three forms, each in all vocabularies and with and without logging of examples.

  Args:
    name: name of the plain form.
    dataset: TFDS name, config and version.
    benchmark: the task.
    leads: leading texts of all tasks of the benchmark; the position of this task's text is its index.

  Returns:
    the added names.
  """
  plain = text_to_text.lead(benchmark.preprocess, benchmark.lead)
  names = []
  for form, preprocess in zip(FORMS, (plain, benchmark.preprocess, benchmark.preprocess), strict=True):
    names += seqio_tasks.add_tfds_task(
      f'{form}{name}', dataset, preprocess, splits=benchmark.splits, postprocess=benchmark.postprocess,
      metrics=benchmark.metrics, index=leads.index(benchmark.lead.rstrip(':')) if form == 'task_index_' else None)
  return names


def add_form_mixtures(name: str, tasks: Sequence[str]) -> list[str]:
  """Adds a mixture, with equal rates, in the three forms of its tasks; returns the added names."""
  names = []
  for form in FORMS:
    names += seqio_tasks.add_mixture(f'{form}{name}', [f'{form}{task}' for task in tasks])
  return names
