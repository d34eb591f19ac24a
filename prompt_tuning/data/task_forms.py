"""The three forms of a benchmark's tasks: plain, `taskless_` and `task_index_`.

T5 was trained with a text in front of the inputs that says which task it is, `sst2 sentence: ...`. A prompt says that
too, so `taskless_` leaves the text out. `task_index_` puts one token there instead: the number of the task, by which a
model with several prompts chooses.
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
    config: of the TensorFlow Dataset, such as 'sst2'.
    lead: leading task text of the plain form. Tasks that are one task to a model, such as MNLI's sets, share it.
    preprocess: makes the examples, without leading text.
    metrics: see `seqio_tasks.add_tfds_task`.
    postprocess: the same.
    splits: of the dataset, and of the task.
    labels: the words that the targets are, where they are few.
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
    name: of the plain form.
    dataset: TFDS name, config and version.
    benchmark: what the task is.
    leads: leading texts of all tasks of the benchmark: the place of this one's is its index.

  Returns:
    the names that were added.
  """
  plain = text_to_text.lead(benchmark.preprocess, benchmark.lead)
  names = []
  for form, preprocess in zip(FORMS, (plain, benchmark.preprocess, benchmark.preprocess), strict=True):
    names += seqio_tasks.add_tfds_task(
      f'{form}{name}', dataset, preprocess, splits=benchmark.splits, postprocess=benchmark.postprocess,
      metrics=benchmark.metrics, index=leads.index(benchmark.lead.rstrip(':')) if form == 'task_index_' else None)
  return names


def add_form_mixtures(name: str, tasks: Sequence[str]) -> list[str]:
  """Adds a mixture, with equal rates, in the three forms of its tasks; returns the names that were added."""
  names = []
  for form in FORMS:
    names += seqio_tasks.add_mixture(f'{form}{name}', [f'{form}{task}' for task in tasks])
  return names
