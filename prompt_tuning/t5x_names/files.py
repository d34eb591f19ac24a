"""`files.…`: tasks from JSONL and TSV files."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.data import files as library
from prompt_tuning.data.tasks import FILE_ENDINGS, Example, Task

__all__ = ['FileTask']


@dataclasses.dataclass(frozen=True)
class FileTask:
  """How the lines of a file become examples, see `data/files.py`.

  Attributes:
    inputs: template of the input text, such as "sst2 sentence: {text}".
    targets: template of the target text.
    labels: what the values of the targets' columns stand for.
    validation: the share of examples for the split 'validation', or the path of another file.
    test: the path of a file for the split 'test'.
    metrics: names of metrics.
  """

  inputs: str = '{inputs}'
  targets: str = '{targets}'
  labels: Mapping[str, str] | None = None
  validation: float | str = 0.1
  test: str | None = None
  metrics: Sequence[Any] = ('accuracy',)

  def task(self, path: str) -> Task:
    """Returns the task of a .jsonl or .tsv file."""
    return library.FileTask(path, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

  def questions(self, path: str) -> Sequence[Example]:
    """Returns the inputs of a file that need not have targets; any other ending is a text a line."""
    return library.read_inputs(path, inputs=self.inputs)


def is_table(path: str) -> bool:
  """Says whether `path` names a file that can be a task."""
  return path.endswith(FILE_ENDINGS)
