"""Optimizers as optax transformations that know the step at which the run starts.

A frozen checkpoint has a step (1,100,000 for the LM-adapted T5s), and T5X continues to count from it: the learning rate
and Adafactor's decay depend on the global step.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Protocol

import jax.numpy as jnp
import optax

from prompt_tuning import trees
from prompt_tuning.names import require_number
from prompt_tuning.training.schedules import Schedule, create_schedule


class Optimizer(Protocol):
  """Makes an optax transformation.

  Attributes:
    learning_rate: a number, or a schedule over global steps.
  """

  learning_rate: float | Schedule

  def build(self, start_step: int) -> optax.GradientTransformation:
    """Returns the transformation whose first update is the global step `start_step`."""


def build(optimizer: Optimizer | optax.GradientTransformation, start_step: int) -> optax.GradientTransformation:
  """Returns the transformation whose first update is the global step `start_step`; optax's own ones unchanged."""
  return optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer.build(start_step)


def rate_at(optimizer: Optimizer | optax.GradientTransformation, step: int) -> dict[str, float]:
  """Returns the learning rate of a global step as a figure; {} for optax's transformations, which do not expose it."""
  if isinstance(optimizer, optax.GradientTransformation):
    return {}
  rate = optimizer.learning_rate
  return {'learning_rate': float(rate(jnp.asarray(step)) if callable(rate) else rate)}


def _require_rate(rate: float | Schedule) -> None:
  if not callable(rate):
    require_number('learning_rate', rate, least=0)


def shifted(rate: float | Schedule, start_step: int) -> float | Schedule:
  """Returns a rate over the run's steps, given one over global steps."""
  return (lambda count: rate(count + start_step)) if callable(rate) else rate


@dataclasses.dataclass(frozen=True)
class Adafactor:
  """Adafactor (Shazeer and Stern 2018) with the settings of prompt tuning.

  With t = global step + 1 and β = 1 − t^(−decay_rate):
    v ← β v + (1 − β)(g² + 1e-30),  u = g / √v,  u ← u / max(1, rms(u) / clipping_threshold),
    p ← (1 − weight_decay_rate) p − rate · u.
  v is factored into row and column means if the two largest dimensions are at least `min_dim_size_to_factor`.

  Attributes:
    learning_rate: a number, or a schedule over global steps.
    decay_rate: exponent of the decay of v.
    step_offset: subtracted from the global step in the decay.
    multiply_by_parameter_scale: multiply the rate by max(rms(p), 1e-3).
    weight_decay_rate: share of p subtracted at each step, not multiplied by the rate.
    factored: whether v may be factored.
    min_dim_size_to_factor: see above.
    clipping_threshold: of the update's root mean square.
    beta1: momentum of the update, or None.
  """

  learning_rate: float | Schedule = dataclasses.field(default_factory=create_schedule)
  decay_rate: float = 0.8
  step_offset: int = 0
  multiply_by_parameter_scale: bool = False
  weight_decay_rate: float | None = 1e-5
  factored: bool = True
  min_dim_size_to_factor: int = 128
  clipping_threshold: float | None = 1.0
  beta1: float | None = None

  def __post_init__(self) -> None:
    _require_rate(self.learning_rate)
    for name in ('decay_rate', 'step_offset'):
      require_number(name, getattr(self, name))
    for name in ('weight_decay_rate', 'clipping_threshold', 'beta1'):
      require_number(name, getattr(self, name), least=0, none=True)

  def build(self, start_step: int) -> optax.GradientTransformation:
    """Returns the transformation whose first update is the global step `start_step`."""
    return optax.adafactor(
      shifted(self.learning_rate, start_step), decay_rate=self.decay_rate,
      decay_offset=self.step_offset - start_step,
      multiply_by_parameter_scale=self.multiply_by_parameter_scale, weight_decay_rate=self.weight_decay_rate,
      factored=self.factored, min_dim_size_to_factor=self.min_dim_size_to_factor,
      clipping_threshold=self.clipping_threshold, momentum=self.beta1, eps=1e-30)


@dataclasses.dataclass(frozen=True)
class AdamW:
  """AdamW (Loshchilov and Hutter 2019), after clipping the gradient's global norm.

  Attributes:
    learning_rate: a number, or a schedule over global steps.
    b1: decay of the mean of gradients.
    b2: decay of the mean of squares.
    weight_decay: share of p subtracted at each step, multiplied by the rate.
    clip: largest global norm of the gradient; None does not clip.
    decayed: regular expressions of the names that weight decay applies to.
  """

  learning_rate: float | Schedule = 1e-3
  b1: float = 0.9
  b2: float = 0.999
  weight_decay: float = 0.0
  clip: float | None = None
  decayed: Sequence[str] = ('.*',)

  def __post_init__(self) -> None:
    _require_rate(self.learning_rate)
    require_number('b1', self.b1, least=0, below=1)
    require_number('b2', self.b2, least=0, below=1)
    require_number('weight_decay', self.weight_decay, least=0)
    require_number('clip', self.clip, above=0, none=True)

  def build(self, start_step: int) -> optax.GradientTransformation:
    """Returns the transformation whose first update is the global step `start_step`."""
    chosen = None if '.*' in self.decayed else functools.partial(
      trees.map_named, lambda name, _: trees.matches(name, self.decayed))
    adam = optax.adamw(shifted(self.learning_rate, start_step), b1=self.b1, b2=self.b2,
                       weight_decay=self.weight_decay, mask=chosen)
    return adam if self.clip is None else optax.chain(optax.clip_by_global_norm(self.clip), adam)
