"""Tasks: named examples with the metrics that judge them, and mixtures of tasks."""

import dataclasses
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_tuning import trees

Example = dict[str, Any]
Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]

FILE_ENDINGS = ('.jsonl', '.tsv')
_SEQIO_NAME = re.compile(r'_v\d+|^(taskless|task_index|mt5|byt5|super_glue|glue|mrqa|squad|c4|xsum|cnn_dailymail|dpr)_')


@dataclasses.dataclass(frozen=True)
class Task:
  """Examples in named splits, and how predictions are judged.

  Attributes:
    name: what users type.
    splits: name of a split -> sequence of examples, dicts with at least 'inputs' and 'targets', each a text or
      an array of token ids. A sequence with a method `draw(seed)` is endless: training calls it with the run's
      seed and reads what it returns in order.
    metrics: functions `(targets, predictions) -> {name: value}`.
    source: what the examples were read from, for messages.
  """

  name: str
  splits: Mapping[str, Sequence[Example]]
  metrics: tuple[Metric, ...] = ()
  source: str = ''

  def split(self, name: str) -> Sequence[Example]:
    """Returns the examples of one split.

    Raises:
      ValueError: there is no such split, or it is empty.
    """
    if name not in self.splits:
      raise ValueError(f'Task {self.name} has no split {name!r}. Choose one of {", ".join(self.splits)}.')
    examples = self.splits[name]
    if len(examples) == 0:
      raise ValueError(f'The split {name!r} of {self.source or self.name} holds no example. Choose another split '
                       f'({_sizes(self.splits)}), or give more examples.')
    return examples


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Tasks that are trained together, each with its rate.

  Attributes:
    name: what users type.
    tasks: the tasks.
    rates: of each task, the share of examples that it gives, up to a common factor; empty is equal shares.
  """

  name: str
  tasks: tuple[Task, ...]
  rates: tuple[float, ...] = ()

  def __post_init__(self):
    rates = tuple(self.rates) or (1.0,) * len(self.tasks)
    if not self.tasks:
      raise ValueError(f'Mixture {self.name} has no task. Give at least one.')
    if len(rates) != len(self.tasks) or min(rates) <= 0:
      raise ValueError(f'Mixture {self.name} has the rates {rates} for {len(self.tasks)} tasks. '
                       'Give one rate above 0 for each task, or none.')
    object.__setattr__(self, 'tasks', tuple(self.tasks))
    object.__setattr__(self, 'rates', rates)


_registry: dict[str, Task | Mixture] = {}


def add(task: Task | Mixture) -> Task | Mixture:
  """Makes `task` known by its name, and returns it.

  Raises:
    ValueError: another task has this name.
  """
  if _registry.get(task.name, task) is not task:
    raise ValueError(f'There is already a task {task.name!r}. Give the new one another name.')
  _registry[task.name] = task
  return task


def get(name: str) -> Task | Mixture:
  """Returns the task or mixture of this name: one that was added, an integer task, or a JSONL or TSV file.

  A file's columns must be called `inputs` and `targets`; `files.FileTask` reads others.

  Raises:
    ValueError: there is none; the message names the nearest.
  """
  from prompt_tuning.data import files, integers  # they make tasks, so they import this module

  if name in _registry:
    return _registry[name]
  if name.endswith(FILE_ENDINGS):
    return files.FileTask(name)
  if name == integers.MIXTURE:
    return integers.mixture()
  if any(part in integers.NAMES for part in name.split('+')):
    return integers.task(name)
  if _SEQIO_NAME.search(name):
    raise ValueError(f'There is no task {name!r} here; its name looks like a SeqIO task. {_seqio_advice()}')
  known = [*_registry, *integers.NAMES, integers.MIXTURE]
  raise ValueError(f'There is no task {name!r}.{trees.nearest(name, known)} Give one of {", ".join(known)}, or the '
                   'path of a .jsonl or .tsv file.')


def _seqio_advice() -> str:
  if importlib.util.find_spec('seqio') is None:
    return ('SeqIO tasks need `pip install prompt-tuning[seqio]`. Without it, write the examples to a .jsonl file '
            'with the columns inputs and targets and give its path.')
  return ('SeqIO is installed, but this version reads no SeqIO task yet: write the examples to a .jsonl file with the '
          'columns inputs and targets and give its path.')


def _sizes(splits: Mapping[str, Sequence[Example]]) -> str:
  return ', '.join(f'{name}: {len(examples)}' for name, examples in splits.items())
