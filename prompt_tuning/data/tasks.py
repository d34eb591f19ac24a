"""Tasks: named examples with their metrics, and mixtures of tasks.

An example is a dict. These keys have a meaning, all optional but 'inputs' (and 'targets', unless it is only predicted):

  inputs, targets                              a text, or an array of token ids; inputs may be a `Conversation`
  inputs_ends, targets_ends                    False: this part gets no end token
  targets_end                                  the id of the targets' end token, if it is not the vocabulary's
  loss_weight                                  weight of its targets in the training loss, a number of at least 0
  inputs_pretokenized, targets_pretokenized    the texts of token ids, which metrics compare and files show
  row                                          the columns of the row of a table that it was made from

`postprocess` can use any other key, and files of predictions show it. The columns of a table are only in 'row', so a
column has a meaning only if a template or a setting names it, whatever it is called.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Example = dict[str, Any]
Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]

FILE_ENDINGS = ('.jsonl', '.tsv', '.csv', '.parquet')
HUB = 'hf://datasets/'  # the start of addresses of tables on the Hugging Face hub, see `hub_tables`
RESERVED = ('inputs', 'targets', 'inputs_ends', 'targets_ends', 'targets_end', 'loss_weight', 'inputs_pretokenized',
            'targets_pretokenized', 'row')


def is_table(name: str) -> bool:
  """Returns True for the name of a file whose rows have columns (.gz may follow), or of a table of the hub."""
  return str(name).startswith(HUB) or str(name).lower().removesuffix('.gz').endswith(FILE_ENDINGS)


class _Splits:
  """What tasks and mixtures have in common."""

  def judged_split(self) -> str:
    """Returns the split to evaluate on: 'validation', or 'train' if there is none."""
    try:
      self.parts('validation')
    except ValueError:
      return 'train'
    return 'validation'


@dataclasses.dataclass(frozen=True)
class Task(_Splits):
  """Examples in named splits, and how predictions are evaluated.

  Attributes:
    name: the name that users type.
    splits: split name -> sequence of examples; the module's docstring lists their keys. A sequence with a method
      `draw(seed)` is endless: training calls it with the run's seed and reads the returned sequence in order.
    metrics: functions `(targets, predictions) -> {name: value}`.
    source: where the examples come from, for messages.
    postprocess: `(text, example=…, is_target=…) -> value`: the value that metrics compare instead of the text of a
      target or prediction.
    score_metrics: functions `(targets, scores) -> {name: value}` of the targets' log-likelihoods.
    labels: all possible target texts, if they are few and known.
  """

  name: str
  splits: Mapping[str, Sequence[Example]]
  metrics: tuple[Metric, ...] = ()
  source: str = ''
  postprocess: Callable[..., Any] | None = None
  score_metrics: tuple[Metric, ...] = ()
  labels: tuple[str, ...] = ()

  def __repr__(self) -> str:
    return f'{type(self).__name__}({self.name!r}, splits {", ".join(self.splits)})'  # their sizes may be unread

  def split(self, name: str) -> Sequence[Example]:
    """Returns the examples of one split.

    Raises:
      ValueError: there is no such split, or it is empty.
    """
    if name not in self.splits:
      raise ValueError(f'Task {self.name} has no split {name!r}. Choose one of {", ".join(self.splits)}.')
    examples = self.splits[name]
    if len(examples) == 0:
      raise ValueError(f'The split {name!r} of {self.source or self.name} holds no examples. Choose another split '
                       f'({_sizes(self.splits)}), or add examples.')
    return examples

  def parts(self, split: str) -> list[tuple['Task', float]]:
    """Returns the tasks that have a split, with their rates: this task only.

    Raises:
      ValueError: there is no such split, or it is empty.
    """
    self.split(split)
    return [(self, 1.0)]

  def value(self, text: str, example: Example, *, is_target: bool) -> Any:
    """Returns the value that metrics compare, from the text of a target or prediction."""
    return text if self.postprocess is None else self.postprocess(text, example=example, is_target=is_target)


def columns_of(example: Example) -> dict[str, Any]:
  """Returns the columns of the row that an example was made from; without a row, the example's own values."""
  if isinstance(example.get('row'), Mapping):
    return dict(example['row'])
  return {key: value for key, value in example.items() if key not in ('inputs_ends', 'targets_ends', 'targets_end')}


@dataclasses.dataclass(frozen=True)
class First:
  """The first examples of an endless sequence, for evaluation.

  Attributes:
    examples: the sequence.
    count: the number of examples.
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
class Mixture(_Splits):
  """Tasks that are trained together, each with its rate.

  Attributes:
    name: the name that users type.
    tasks: the tasks; a split of the mixture combines the tasks that have that split.
    rates: relative share of examples from each task; empty means equal shares.
  """

  name: str
  tasks: tuple[Task, ...]
  rates: tuple[float, ...] = ()

  def __repr__(self) -> str:
    rates = ', '.join(f'{task.name}: {rate:g}' for task, rate in zip(self.tasks, self.rates, strict=True))
    return f'Mixture({self.name!r}, rates {rates})'

  def __post_init__(self):
    rates = tuple(self.rates) or (1.0,) * len(self.tasks)
    if not self.tasks:
      raise ValueError(f'Mixture {self.name} has no tasks. Give at least one.')
    if len(rates) != len(self.tasks) or min(rates) <= 0:
      raise ValueError(f'Mixture {self.name} got rates={rates} for {len(self.tasks)} tasks. '
                       'Give one rate above 0 for each task, or no rates.')
    object.__setattr__(self, 'tasks', tuple(self.tasks))
    object.__setattr__(self, 'rates', rates)

  def parts(self, split: str) -> list[tuple[Task, float]]:
    """Returns the tasks that have a split, with their rates.

    Raises:
      ValueError: no task has this split, or it is empty in one of them.
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
  """Registers `task` under its name, and returns it.

  Raises:
    ValueError: another task has this name.
  """
  if registered.get(task.name, task) is not task:
    raise ValueError(f'There is already a task {task.name!r}. Give the new task another name.')
  registered[task.name] = task
  return task


def with_metrics(task: Task, metrics: Sequence[Metric]) -> Task:
  """Returns a task with other metrics; those of files are made of other arguments than their fields."""
  fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(Task)}
  return Task(**{**fields, 'metrics': tuple(metrics)})


def unique_names(tasks: Sequence[Task]) -> list[str]:
  """Returns the tasks' names; those of several tasks are numbered, as in `reviews.jsonl-1`."""
  return _numbered([task.name for task in tasks])


def short_names(tasks: Sequence[Task]) -> list[str]:
  """Returns a name for each task, for figures and files: the last part of its path, or more parts if that is ambiguous.

  `a/reviews.jsonl` alone is `reviews.jsonl`; together with `b/reviews.jsonl`, the names are `a_reviews.jsonl` and
  `b_reviews.jsonl`.
  """
  return shortened(unique_names(tasks))


def shortened(full: Sequence[str]) -> list[str]:
  """Returns the last part of each of several paths, or more parts if that is ambiguous, joined by `_`."""
  paths = [name.split('/') for name in full]
  names: list[str] = []
  for count in range(1, max(map(len, paths), default=0) + 1):
    names = ['_'.join(filter(None, path[-count:])) for path in paths]
    if len(set(names)) == len(names):
      break
  return _numbered(names)


def _numbered(names: Sequence[str]) -> list[str]:
  """Returns the names, with a number after each that occurs several times."""
  return [f'{name}-{names[:i + 1].count(name)}' if names.count(name) > 1 else name for i, name in enumerate(names)]


def _sizes(splits: Mapping[str, Sequence[Example]]) -> str:
  return ', '.join(f'{name}: {len(examples)}' for name, examples in splits.items())
