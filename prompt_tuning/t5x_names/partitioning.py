"""`partitioning.…`: one device, until the package shards models."""

import dataclasses
from typing import Any

__all__ = ['PjitPartitioner']


@dataclasses.dataclass(frozen=True)
class PjitPartitioner:
  """How a model is spread over devices.

  Attributes:
    num_partitions: over how many devices each parameter is spread: 1.
    model_parallel_submesh: the same as a shape of TPUs: None.
  """

  num_partitions: int | None = 1
  model_parallel_submesh: Any = None

  def __post_init__(self) -> None:
    if self.num_partitions not in (None, 1) or self.model_parallel_submesh is not None:
      raise ValueError(
        f'partitioning.PjitPartitioner is given num_partitions={self.num_partitions} and model_parallel_submesh='
        f'{self.model_parallel_submesh}, but this version runs a model on one device. Leave both out; where memory is '
        "short, set utils.RestoreCheckpointConfig.dtype='bfloat16', trainer.Trainer.num_microbatches or "
        "LAYER_REMAT='full'.")
