"""Tells whether the file that a run was trained on still holds the same examples."""

from collections.abc import Mapping
from typing import Any

from prompt_tuning.data.digest import digest
from prompt_tuning.runs import objects
from prompt_tuning.runs.train_run import TrainRun


def have_changed(settings: Mapping[str, Any], about: Mapping[str, Any], model: Any) -> bool:
  """Returns True if a run's file now gives other training examples; False if that is not known.

  Args:
    settings: those of its `run.toml`; {} if there is none.
    about: the metadata of its tensors, which hold a digest of the examples.
    model: the frozen model.

  Raises:
    ValueError, OSError: the file cannot be read any more.
  """
  if 'examples' not in about or not settings:
    return False
  run = TrainRun.of(settings)
  if not run.reads_table:
    return False
  return digest(objects.task(run), run.split, objects.loss(run, model.vocabulary, model).fields) != about['examples']
