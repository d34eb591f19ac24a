"""What a tuning method is: the owner of trained tensors φ, of what a model is handed for them, and of their files."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from prompt_tuning import trees
from prompt_tuning.rows.conditioning import Conditioning, Frozen, StackConditioning
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.types import Array, Flat, Params

_STACKS = ('encoder', 'decoder')


class Method(abc.ABC):
  """A tuning method. Subclasses are frozen dataclasses whose fields are the method's settings.

  φ is a nested dict whose '/'-joined paths are the names that files, logs and regular expressions use.

  A method whose fields are not all plain values has an attribute `Settings`: a dataclass of plain values, whose
  `build(model)` returns the method. Flags and files set its fields instead.
  """

  learning_rate: ClassVar[float] = 0.3  # for Adafactor, if none is given

  def build(self, model: Any) -> 'Method':
    """Returns the method for one model: this one, unless some of its settings can only be read with the model."""
    del model
    return self

  def layout(self) -> Layout:
    """Returns how examples are laid out for this method: the plain layout if it takes no place in the rows."""
    return Layout()

  @abc.abstractmethod
  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ before the first step. Raises ValueError if the method does not fit the model."""

  @abc.abstractmethod
  def condition(self, trained: Params, model: Frozen) -> Conditioning:
    """Returns what the model is handed; differentiable in `trained`. Raises ValueError if φ does not fit the model."""

  def export(self, trained: Params, model: Frozen) -> Flat:
    """Returns what files for use hold of φ: all of it, unless some of it is needed in training only."""
    del model
    return trees.flatten(trained)

  def penalty(self, trained: Params) -> Array | None:
    """Returns what is added to each step's loss once, or None."""
    del trained
    return None

  def describe(self) -> dict[str, Any]:
    """Returns what files say of the method: what `read` needs in addition to the tensors."""
    layout = self.layout()
    return {'method': type(self).__name__, 'placement': layout.placement.__name__,
            'prompt_length': layout.prompt_length}

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns True if a tensor of this name in a file is this method's."""
    raise NotImplementedError

  @classmethod
  def read(cls, tensors: Flat, about: Mapping[str, Any]) -> 'Method':
    """Returns the method that lays out and conditions tensors of a file: the inverse of `export` and `describe`.

    Args:
      tensors: those that the method owns.
      about: the file's metadata.

    Raises:
      ValueError: they do not belong together.
    """
    raise NotImplementedError


def combine(parts: Sequence[tuple[Method, Conditioning]]) -> Conditioning:
  """Returns one Conditioning of what several methods hand to one model.

  Raises:
    ValueError: two methods fill one field of one stack, or change one parameter.
  """
  owners: dict[str, Method] = {}

  def claim(field: str, method: Method) -> None:
    if field in owners:
      raise ValueError(f'{type(owners[field]).__name__} and {type(method).__name__} both fill {field}, which the model '
                       'takes once. Use one of them.')
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
  """Returns how examples are laid out for several methods, of which one may take places in the rows.

  Raises:
    ValueError: two do.
  """
  placed = [(method, method.layout()) for method in methods if method.layout() != Layout()]
  if len(placed) > 1:
    names = ' and '.join(type(method).__name__ for method, _ in placed)
    raise ValueError(f'{names} both take places in the rows of a batch, which one method can. Use one of them.')
  return placed[0][1] if placed else Layout()
