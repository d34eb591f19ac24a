"""Small values that a training run is given, and what it gives back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning.evaluation import saved

CACHE_LIMIT = 4 << 30  # bytes


@dataclasses.dataclass(frozen=True)
class Saving:
  """How often a run's state is saved.

  Attributes:
    period: steps from one save to the next.
    keep: how many states are kept, the best and last trained tensors aside; None keeps all.

  Raises:
    ValueError: the period or `keep` is not above 0.
  """

  period: int = 1000
  keep: int | None = 1

  def __post_init__(self) -> None:
    if self.period < 1 or (self.keep is not None and self.keep < 1):
      raise ValueError(f'A state shall be saved every {self.period} steps and {self.keep} be kept. '
                       'Give numbers of at least 1 for period and keep, or keep=None for all.')


@dataclasses.dataclass(frozen=True)
class Stop:
  """When a run ends before its last step: the accuracy of what it was trained on is high enough.

  Attributes:
    accuracy: the share of right tokens or labels, 0 to 1.
    examples: over so many of the last examples; looked at whenever figures are logged.
  """

  accuracy: float
  examples: int = 50


@dataclasses.dataclass(frozen=True)
class Run:
  """A run that has ended.

  Attributes:
    folder: its MODEL_DIR.
    step: the last global step.
    trained: φ, flat: name -> array.
    metrics: of the last evaluation: 'task/metric' -> value.
    best: of the best evaluation, or None.
  """

  folder: str
  step: int
  trained: Mapping[str, np.ndarray]
  metrics: Mapping[str, float]
  best: Mapping[str, Any] | None

  @property
  def prompt(self) -> saved.SavedPrompt:
    """The prompt of the best evaluation; the last one where nothing was evaluated."""
    return saved.load_prompt(self.folder)
