"""The interface of tuning methods: a method owns its trained tensors φ, their conditioning and their files."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from prompt_tuning import trees
from prompt_tuning.rows.conditioning import Conditioning, Frozen, StackConditioning
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.types import Array, Flat, Params

_STACKS = ('encoder', 'decoder')


class Method(abc.ABC):
  """A tuning method. Subclasses are frozen dataclasses whose fields are the method's settings.

  φ is a nested dict; its '/'-joined paths are the names in files, logs and regular expressions.

  If not all of its fields are plain values, a method has an attribute `Settings`: a dataclass of plain values whose
  `build(model)` returns the method. Flags and files set those fields instead.
  """

  learning_rate: ClassVar[float] = 0.3  # for Adafactor, if a run gives none; see `rate`
  tasks = None  # the names of the tasks that have prompts of their own, in the order of `prompt_ids`; see `of_tasks`

  def build(self, model: Any) -> 'Method':
    """Returns the method for one model: this one, unless some of its settings can only be read with the model."""
    del model
    return self

  def rate(self, model: Any) -> float:
    """Returns the learning rate of Adafactor for a model, if a run gives none."""
    del model
    return self.learning_rate

  def layout(self) -> Layout:
    """Returns the layout of examples for this method: the plain layout if it needs no positions in the rows."""
    return Layout()

  def of_tasks(self, names: Sequence[str]) -> 'Method':
    """Returns the method for the tasks of a run, by name: this one, unless it has tensors for each task."""
    del names
    return self

  @abc.abstractmethod
  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns the initial φ. Raises ValueError if the method does not fit the model."""

  @abc.abstractmethod
  def condition(self, trained: Params, model: Frozen) -> Conditioning:
    """Returns the conditioning, differentiable in `trained`. Raises ValueError if φ does not fit the model."""

  def condition_of(self, task: str | None, trained: Params, model: Frozen) -> Conditioning:
    """Returns the conditioning of rows that all belong to one task, by name; None if the task is unknown."""
    del task
    return self.condition(trained, model)

  def export(self, trained: Params, model: Frozen) -> Flat:
    """Returns the part of φ that exported files hold: everything that is not needed only in training."""
    del model
    return trees.flatten(trained)

  def prompts(self, trained: Params, model: Frozen) -> Mapping[str, Flat]:
    """Returns further files of trained tensors: the name of a task -> the prompt that it can be used with alone."""
    del trained, model
    return {}

  def rate_of(self, name: str) -> float:
    """Returns the learning rate of a tensor of φ, as a multiple of the run's, with any optimizer."""
    del name
    return 1.0

  def keep(self, before: Params, after: Params) -> Params:
    """Returns φ after a step, from that before it and what the optimizer made of it: parts may stay as they were."""
    del before
    return after

  def start(self, given: Flat, about: Mapping[str, Any], own: Flat) -> Flat:
    """Returns the first values of φ from a file's tensors and metadata, and from the method's own (or their shapes).

    The caller compares names and shapes with the method's. By default, these are the tensors of the file.
    """
    del about, own
    return given

  def penalty(self, trained: Params) -> Array | None:
    """Returns a penalty that is added once to each step's loss, or None."""
    del trained
    return None

  def describe(self) -> dict[str, Any]:
    """Returns the description of the method in files, which `read` needs in addition to the tensors."""
    layout = self.layout()
    return {'method': type(self).__name__, 'placement': layout.placement.__name__,
            'prompt_length': layout.prompt_length}

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns True if a tensor with this name in a file belongs to this method."""
    raise NotImplementedError

  @classmethod
  def read(cls, tensors: Flat, about: Mapping[str, Any]) -> 'Method':
    """Returns the method for the tensors of a file: the inverse of `export` and `describe`.

    Args:
      tensors: the tensors that the method owns.
      about: the file's metadata.

    Raises:
      ValueError: the tensors do not belong together.
    """
    raise NotImplementedError


def fields_of(method: Method) -> dict[str, Any]:
  """Returns the fields of a method by name, to make one that extends it."""
  return {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}


def combine(parts: Sequence[tuple[Method, Conditioning]]) -> Conditioning:
  """Returns the combined conditioning of several methods for one model.

  Raises:
    ValueError: two methods set the same field of a stack, or change the same parameter.
  """
  owners: dict[str, Method] = {}

  def claim(field: str, method: Method) -> None:
    if field in owners:
      raise ValueError(f'{type(owners[field]).__name__} and {type(method).__name__} both set {field}, but only one '
                       'method can. Use one of them.')
    owners[field] = method

  stacks: dict[str, dict[str, Any]] = {stack: {} for stack in _STACKS}
  parameters: dict[str, Any] = {}
  for method, conditioning in parts:
    for stack in _STACKS:
      given = getattr(conditioning, stack)
      for name in given.given():
        claim(f'{stack}.{name}', method)
        stacks[stack][name] = getattr(given, name)
      if given.prompt is not None:
        stacks[stack]['visibility'] = given.visibility
    for name in conditioning.parameters:
      claim(name, method)
    parameters |= conditioning.parameters
  return Conditioning(**{stack: StackConditioning(**fields) for stack, fields in stacks.items()}, parameters=parameters)


def common_layout(methods: Sequence[Method]) -> Layout:
  """Returns the layout of examples for several methods, of which at most one may need positions in the rows.

  Raises:
    ValueError: several methods need positions in the rows.
  """
  asked = [(method, method.layout()) for method in methods]
  placed = [(method, layout) for method, layout in asked if dataclasses.replace(layout, prefixed=False) != Layout()]
  if len(placed) > 1:
    names = ' and '.join(type(method).__name__ for method, _ in placed)
    raise ValueError(f'{names} both need positions in the rows of a batch, but only one method can. Use one of them.')
  return dataclasses.replace(placed[0][1] if placed else Layout(), prefixed=any(each.prefixed for _, each in asked))
