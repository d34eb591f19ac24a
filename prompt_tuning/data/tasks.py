"""Tasks: named examples with the metrics that judge them, and mixtures of tasks."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Example = dict[str, Any]
Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]

FILE_ENDINGS = ('.jsonl', '.tsv')


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


registered: dict[str, Task | Mixture] = {}


def add(task: Task | Mixture) -> Task | Mixture:
  """Makes `task` known by its name, and returns it.

  Raises:
    ValueError: another task has this name.
  """
  if registered.get(task.name, task) is not task:
    raise ValueError(f'There is already a task {task.name!r}. Give the new one another name.')
  registered[task.name] = task
  return task


def _sizes(splits: Mapping[str, Sequence[Example]]) -> str:
  return ', '.join(f'{name}: {len(examples)}' for name, examples in splits.items())
