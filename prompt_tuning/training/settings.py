"""Small values that a training run takes and returns."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning import trees
from prompt_tuning.evaluation import saved
from prompt_tuning.names import require_number

CACHE_LIMIT = 4 << 30  # bytes


@dataclasses.dataclass(frozen=True)
class Saving:
  """How often a run's state is saved.

  Attributes:
    period: steps from one save to the next.
    keep: the number of states to keep, in addition to the best and last trained tensors; None keeps all.

  Raises:
    ValueError: the period or `keep` is below 1.
  """

  period: int = 1000
  keep: int | None = 1

  def __post_init__(self) -> None:
    require_number('period', self.period, least=1, whole=True)
    require_number('keep', self.keep, least=1, whole=True, none=True)


@dataclasses.dataclass(frozen=True)
class Stop:
  """The condition for a run to end before its last step: its accuracy on training examples is high enough.

  Attributes:
    accuracy: the share of correct tokens or labels, 0 to 1.
    examples: the number of last examples that it is computed on, whenever figures are logged.

  Raises:
    ValueError: a number is out of range.
  """

  accuracy: float
  examples: int = 50

  def __post_init__(self) -> None:
    require_number('accuracy', self.accuracy, least=0, most=1)
    require_number('examples', self.examples, least=1, whole=True)


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run.

  Attributes:
    folder: its folder.
    step: the last global step.
    trained: φ, flat: name -> array.
    metrics: of the last evaluation: 'task/metric' -> value.
    best: the best evaluation, or None.
  """

  folder: str
  step: int
  trained: Mapping[str, np.ndarray]
  metrics: Mapping[str, float]
  best: Mapping[str, Any] | None

  def __repr__(self) -> str:
    metrics = ''.join(f', {name} {value:.4g}' for name, value in self.metrics.items())
    return f'Run({self.folder!r}, step {self.step}{metrics}, {trees.described(self.trained)})'

  @property
  def prompt(self) -> saved.SavedPrompt:
    """The prompt of the best evaluation, or the last prompt if nothing was evaluated."""
    return saved.load_prompt(self.folder)
