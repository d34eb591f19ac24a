"""Multitask prompts (Wang et al. 2023): one prompt that all tasks share, times a matrix of low rank for each task.

  P_t = P* ∘ (u_t v_t),    P* [P, D], u_t [P, r], v_t [r, D];    φ = {P*, u, v}.

One run trains them over a mixture; rows of task t use P_t. Each task's prompt is exported alone, and used like any
other. A new task starts from P* with new factors, and needs fewer examples than a prompt of its own if it resembles the
others. At first u_t v_t = 1, so that all tasks start from P*. For one task with many examples, train a prompt.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.names import nearest, require_number
from prompt_tuning.rows.conditioning import Conditioning, Frozen
from prompt_tuning.tuning.method import fields_of
from prompt_tuning.tuning.prompt import PROMPTS, PromptSettings, PromptTuning
from prompt_tuning.types import Array, Flat, Params

_TASK_RATE = 0.03
_PARTS = ('columns', 'rows', 'shared')
_NAMES = {f'{stack}/prompt/multitask/{part}' for stack in PROMPTS for part in _PARTS}


@dataclasses.dataclass(frozen=True)
class MultitaskSettings(PromptSettings):
  """A multitask prompt as plain values: those of the shared prompt, and of the tasks' factors.

  Attributes:
    task_rank: r, the rank of each task's factor.
    task_rate: the learning rate of the tasks' factors, as a multiple of the run's; none is the one that makes it 0.03
      at the default rate.
  """

  task_rank: int = 1
  task_rate: float | None = None

  def build(self, model: Any) -> 'MultitaskPrompt':
    """Returns the method for a model; `init` must be a function by then."""
    prompt = super().build(model)
    rate = _TASK_RATE / prompt.rate(model) if self.task_rate is None else self.task_rate  # the factors are about 1
    return MultitaskPrompt(**fields_of(prompt), task_rank=self.task_rank, task_rate=rate)


@dataclasses.dataclass(frozen=True)
class MultitaskPrompt(PromptTuning):
  """The method: a prompt for each task of a run, of shared and own parts.

  Attributes:
    prompt: the shared prompt.
    task_rank: r, the rank of each task's factor.
    task_rate: the learning rate of the tasks' factors, as a multiple of the run's.
    tasks: the names of the tasks, in the order of their factors; a run fills them in.

  Raises:
    ValueError: a number is out of range, or two tasks have one name.
  """

  Settings = MultitaskSettings

  task_rank: int = 1
  task_rate: float = 0.1
  tasks: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    require_number('task_rank', self.task_rank, least=1, whole=True)
    require_number('task_rate', self.task_rate, above=0)
    twice = next((name for name in self.tasks if self.tasks.count(name) > 1), None)
    if twice is not None:
      raise ValueError(f'Two tasks have the name {twice!r}, but the prompt of each needs a name. Rename one of them.')

  def of_tasks(self, names: Sequence[str]) -> 'MultitaskPrompt':
    """Returns the method for the tasks of a run."""
    return dataclasses.replace(self, tasks=tuple(names))

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: `encoder/prompt/multitask/shared` [P, D], `…/columns` [N, P, r] and `…/rows` [N, r, D] of N tasks.

    Raises:
      ValueError: there are no tasks, or the initialiser does not fit the model and the length.
    """
    if not self.tasks:
      raise ValueError("A multitask prompt has no tasks. Give tasks=('a', 'b'), the names of a run's tasks.")
    shared = super().initialise(key, model)[model.prompted]['prompt']['prompt']['prompt']
    count, (length, width) = len(self.tasks), shared.shape
    columns = 0.02 * jax.random.normal(jax.random.fold_in(key, 1), (count, length, self.task_rank))
    rows = jnp.zeros((count, self.task_rank, width))  # 1 times 1, and further ranks add nothing at first
    return {model.prompted: {'prompt': {'multitask': {
      'shared': shared, 'columns': columns.at[..., 0].set(1.0), 'rows': rows.at[:, 0].set(1.0)}}}}

  def vectors(self, trained: Params) -> Array:
    """Returns the prompts of all tasks [N, P, D]."""
    (tree,) = trained.values()
    found = {name: jnp.asarray(array) for name, array in tree['prompt']['multitask'].items()}
    return found['shared'] * (found['columns'] @ found['rows'])

  def condition_of(self, task: str | None, trained: Params, model: Frozen) -> Conditioning:
    """Returns the prompt of one task as conditioning [1, P, D].

    Raises:
      ValueError: there are several tasks, and none of this name.
    """
    return self.conditioning(self.vectors(trained)[self._number(task)][None], model)

  def _number(self, task: str | None) -> int:
    if task not in self.tasks and len(self.tasks) > 1:
      found = 'none is chosen' if task is None else f'the task here is {task}.{nearest(task, self.tasks)}'.rstrip('.')
      raise ValueError(f'The trained tensors are prompts of the tasks {", ".join(self.tasks)}, but {found}. Give '
                       "one task's prompt: prompts/NAME.safetensors in the run's folder; of a PEFT adapter, what "
                       '`prompt-tuning convert --task=NUMBER` writes.')
    return self.tasks.index(task) if task in self.tasks else 0

  def export(self, trained: Params, model: Frozen) -> Flat:
    """Returns the shared prompt and the factors of all tasks, from which training goes on with other tasks."""
    del model
    (stack, tree), = trained.items()
    return {f'{stack}/prompt/multitask/{part}': tree['prompt']['multitask'][part] for part in _PARTS}

  def prompts(self, trained: Params, model: Frozen) -> Mapping[str, Flat]:
    """Returns the prompt [P, D] of each task, under the name of a prompt."""
    return {task: {PROMPTS[model.prompted]: vectors}
            for task, vectors in zip(self.tasks, self.vectors(trained), strict=True)}

  def rate_of(self, name: str) -> float:
    """Returns `task_rate` for the factors of tasks."""
    return 1.0 if name.endswith('/shared') else self.task_rate

  def start(self, given: Flat, about: Mapping[str, Any], own: Flat) -> Flat:
    """Returns the first values from a prompt, or a file of other tasks, whose prompt becomes the shared one.

    Tasks whose names are in the file keep their factors; others have new ones.

    Raises:
      ValueError: the factors of a task have another rank.
    """
    columns, rows, shared = sorted(own)
    prompts = [array for name, array in given.items() if name in PROMPTS.values()]
    if len(given) == len(prompts) == 1:
      return {**own, shared: prompts[0]}
    if set(given) != set(own):
      return given
    before, first = MultitaskPrompt.read(given, about), {**own, shared: given[shared]}
    for i, task in enumerate(self.tasks):
      if task in before.tasks:
        if before.task_rank != self.task_rank:
          raise ValueError(f'The factors of the task {task} have task_rank={before.task_rank}, but the run has '
                           f'task_rank={self.task_rank}. Give task_rank={before.task_rank}.')
        for name in (columns, rows) if hasattr(own[columns], '__array__') else ():  # else only shapes are known
          first[name] = jnp.asarray(first[name]).at[i].set(given[name][before.tasks.index(task)])
    return first

  def describe(self) -> dict[str, Any]:
    """Returns the description of a prompt, and the tasks."""
    return super().describe() | {'tasks': list(self.tasks)}

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns True for `encoder/prompt/multitask/shared` and the like."""
    return name in _NAMES

  @classmethod
  def read(cls, tensors: Flat, about: Mapping[str, Any]) -> 'MultitaskPrompt':
    """Returns the method for the shared prompt and the factors of tasks; tasks without names are numbered."""
    stack = next(iter(tensors)).partition('/')[0]
    shapes = {name.rpartition('/')[2]: np.shape(array) for name, array in tensors.items()}
    count, length, rank = shapes.get('columns', (0, 0, 0))
    width = (*shapes.get('shared', ()), 0, 0)[1]
    wanted = {'columns': (count, length, rank), 'rows': (count, rank, width), 'shared': (length, width)}
    tasks = tuple(about.get('tasks') or map(str, range(count)))
    if shapes != wanted or len(tensors) != len(wanted) or len(tasks) != count or 0 in (count, length, rank, width):
      raise ValueError(f'The file holds {", ".join(f"{name} {shape}" for name, shape in shapes.items())} for '
                       f'{len(tasks)} tasks; a multitask prompt of the {stack} needs shared (P, D), columns (tasks, P, '
                       'r) and rows (tasks, r, D). Save it again.')
    read = super().read({PROMPTS[stack]: tensors[f'{stack}/prompt/multitask/shared']}, about)
    return dataclasses.replace(read, task_rank=rank, tasks=tasks)
