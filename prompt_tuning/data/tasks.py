"""Tasks: named examples with the metrics that judge them, and mixtures of tasks."""

import dataclasses
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_tuning import trees

Example = dict[str, Any]
Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]

FILE_ENDINGS = ('.jsonl', '.tsv')
_PACKAGE = 'prompt_tuning.data'
# Names of SeqIO tasks -> the module of the package that adds them.
_SEQIO_MODULES = {
  r'glue_.*_from_': 'glue_transfer', r'super_glue_|dpr_v': 'super_glue', r'glue_': 'glue',
  r'squad|mrqa': 'qa', r'xsum_|cnn_dailymail_': 'summarization', r'c4_': 'c4'}


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
    postprocess: `(text, example=…, is_target=…) -> value`: what metrics compare instead of a target's or an
      answer's text.
    score_metrics: functions `(targets, scores) -> {name: value}` of the targets' log-likelihoods.
    labels: all texts that a target may be, where these are few and known.
  """

  name: str
  splits: Mapping[str, Sequence[Example]]
  metrics: tuple[Metric, ...] = ()
  source: str = ''
  postprocess: Callable[..., Any] | None = None
  score_metrics: tuple[Metric, ...] = ()
  labels: tuple[str, ...] = ()

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

  def parts(self, split: str) -> list[tuple['Task', float]]:
    """Returns the tasks that give examples of a split, with their rates: this one.

    Raises:
      ValueError: there is no such split, or it is empty.
    """
    self.split(split)
    return [(self, 1.0)]

  def value(self, text: str, example: Example, *, is_target: bool) -> Any:
    """Returns what metrics compare, of a target's or an answer's text."""
    return text if self.postprocess is None else self.postprocess(text, example=example, is_target=is_target)


@dataclasses.dataclass(frozen=True)
class First:
  """The first examples of an endless sequence, to be judged by.

  Attributes:
    examples: the sequence.
    count: how many.
  """

  examples: Sequence[Example]
  count: int

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < self.count:
      raise IndexError(index)
    return self.examples[index]


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Tasks that are trained together, each with its rate.

  Attributes:
    name: what users type.
    tasks: the tasks; a split of the mixture is that of those that have it.
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

  def parts(self, split: str) -> list[tuple[Task, float]]:
    """Returns the tasks that give examples of a split, with their rates.

    Raises:
      ValueError: no task has this split, or it is empty in one.
    """
    found = [(task, rate) for task, rate in zip(self.tasks, self.rates, strict=True) if split in task.splits]
    if not found:
      known = sorted({name for task in self.tasks for name in task.splits})
      raise ValueError(f'No task of the mixture {self.name} has a split {split!r}. Choose one of {", ".join(known)}.')
    for task, _ in found:
      task.split(split)
    return found


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


def get(name: str, vocabulary: Any = None, lengths: Mapping[str, int] | None = None) -> Task | Mixture:
  """Returns the task or mixture of this name: one that was added here or to SeqIO, an integer task, or a file.

  The columns of a JSONL or TSV file must be called `inputs` and `targets`; `files.FileTask` reads others.

  Args:
    name: what users type.
    vocabulary: the model's, which SeqIO tasks are tokenised with.
    lengths: most tokens of 'inputs' and 'targets', for SeqIO tasks that cut their texts to them.

  Raises:
    ValueError: there is none; the message names the nearest.
    ImportError: it needs SeqIO, which is not installed.
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
  known = [*_registry, *integers.NAMES, integers.MIXTURE]
  if 'seqio' in sys.modules:  # some module has added tasks to it
    from prompt_tuning.data import seqio_reading

    if name in seqio_reading.names():
      return seqio_reading.load(name, vocabulary, lengths)
    known += seqio_reading.names()
  nearest = trees.nearest(name, known)
  module = module_of(name)
  if module is not None and module not in sys.modules:
    raise ValueError(f'There is no task {name!r}; its name looks like one of {module}. {_seqio_advice(module)}')
  raise ValueError(f'There is no task {name!r}.{nearest} Give the name of a task (`prompt-tuning tasks` lists them), '
                   'with MIXTURE_OR_TASK_MODULE set to the module that adds it, or the path of a .jsonl or .tsv file.')


def import_module(name: str) -> None:
  """Imports a module that adds tasks.

  Raises:
    ImportError: it cannot be imported; the message says why.
  """
  try:
    importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name == 'seqio':
      raise ImportError(f'The module of tasks {name} needs SeqIO: `pip install prompt-tuning[seqio]`.') from error
    if error.name is None or not f'{name}.'.startswith(f'{error.name}.'):
      raise ImportError(f'The module of tasks {name} cannot be imported: {error}. Install what it needs.') from error
    raise ImportError(f'The module of tasks {name}: there is no such module. Start the program in the folder that '
                      'holds it, or install it.') from error
  except Exception as error:  # a module of the user's may raise anything; it is raised again with the module's name
    raise ImportError(f'The module of tasks {name} cannot be imported: {type(error).__name__}: {error}. '
                      'Mend the module.') from error


def modules() -> list[str]:
  """Returns the modules of the package that add SeqIO tasks."""
  return [f'{_PACKAGE}.{module}' for module in sorted(_SEQIO_MODULES.values())]


def module_of(name: str) -> str | None:
  """Returns the module of the package that adds a SeqIO task of such a name."""
  found = next((module for pattern, module in _SEQIO_MODULES.items() if re.search(pattern, name)), None)
  return None if found is None else f'{_PACKAGE}.{found}'


def _seqio_advice(module: str) -> str:
  if importlib.util.find_spec('seqio') is None:
    return ('SeqIO tasks need `pip install prompt-tuning[seqio]`. Without it, write the examples to a .jsonl file '
            'with the columns inputs and targets and give its path.')
  return f"Set --gin.MIXTURE_OR_TASK_MODULE=\"'{module}'\"."


def _sizes(splits: Mapping[str, Sequence[Example]]) -> str:
  return ', '.join(f'{name}: {len(examples)}' for name, examples in splits.items())
