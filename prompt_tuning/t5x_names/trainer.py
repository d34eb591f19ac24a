"""`trainer.…`."""

import dataclasses

from prompt_tuning.training.schedules import Schedule

__all__ = ['Trainer']


@dataclasses.dataclass(frozen=True)
class Trainer:
  """How a step is made.

  Attributes:
    num_microbatches: a batch is run in so many parts; None is one.
    learning_rate_fn: the learning rate of a global step; None leaves the optimizer its own.
  """

  num_microbatches: int | None = None
  learning_rate_fn: Schedule | float | None = None
