"""`trainer.…`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ['Trainer']


@dataclasses.dataclass(frozen=True)
class Trainer:
  """How a step is made.

  Attributes:
    num_microbatches: the number of parts that a batch is run in; None is one.
    learning_rate_fn: `@utils.create_learning_rate_scheduler()`, or a number; None leaves the optimizer its own rate.
  """

  num_microbatches: int | None = None
  learning_rate_fn: Mapping[str, Any] | float | None = None
