"""Optimizers by name: those of the package, those that users register, and every function of optax."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax

from prompt_tuning.names import Registry, require_known
from prompt_tuning.training.optimizers import Adafactor, AdamW, Optimizer, shifted
from prompt_tuning.training.schedules import Schedule

OPTIMIZERS: Registry = Registry('optimizer', {'adafactor': Adafactor, 'adamw': AdamW},
                                ', a function of optax, or register yours with prompt_tuning.register_optimizer')
register_optimizer = OPTIMIZERS.register
"""Registers an optimizer, `register_optimizer(name, function)`, and returns the function, whose first argument is the
learning rate and which returns an optax transformation. ValueError if another optimizer has the name. `--optimizer
NAME` then uses it, with its other arguments as `--optimizer.ARGUMENT`."""


@dataclasses.dataclass(frozen=True)
class Optax:
  """A function of optax, such as `optax.lion`, as an optimizer.

  Attributes:
    make: the function.
    learning_rate: a number, or a schedule over global steps.
    options: its other arguments.
  """

  make: Callable[..., optax.GradientTransformation]
  learning_rate: float | Schedule
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def build(self, start_step: int) -> optax.GradientTransformation:
    """Returns the transformation whose first update is the global step `start_step`."""
    return self.make(shifted(self.learning_rate, start_step), **self.options)


def find_optimizer(name: str) -> Callable[..., Any]:
  """Returns the class of an optimizer, or the function of optax. Raises ValueError if there is none of this name."""
  return OPTIMIZERS.get(name) or getattr(optax, name, None) or OPTIMIZERS.find(name)


def make_optimizer(name: str, options: Mapping[str, Any], learning_rate: float | Schedule) -> Optimizer:
  """Returns the optimizer with this name; `learning_rate` is a number, or a schedule over global steps.

  Raises:
    ValueError: there is no such optimizer or option.
  """
  make = find_optimizer(name)
  known = [each for each in inspect.signature(make).parameters if each != 'learning_rate']
  require_known(options, known, f'The optimizer {name}', 'option')
  if 'learning_rate' not in inspect.signature(make).parameters:
    raise ValueError(f'{name} of optax takes no learning rate, so it is not an optimizer. Choose another one.')
  if dataclasses.is_dataclass(make):
    return make(learning_rate=learning_rate, **options)
  return Optax(make, learning_rate, dict(options))
