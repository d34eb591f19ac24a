"""`partitioning.…`: how a model is spread over devices."""

import math
from collections.abc import Mapping, Sequence

__all__ = ['PjitPartitioner']


def PjitPartitioner(num_partitions: int | None = 1, model_parallel_submesh: Sequence[int] | None = None,
                    mesh_shape: Mapping[str, int] | None = None) -> Mapping[str, int]:
  """Returns how many devices there are along each axis, see `prompt_tuning/devices/sharding.py`.

  Args:
    num_partitions: how many devices each parameter is split over (the axis `model`); the others hold copies.
    model_parallel_submesh: the same as a shape of TPUs, such as (2, 2, 1, 1).
    mesh_shape: devices along each axis instead, such as {'data': -1, 'fsdp': 8, 'model': 1}; -1 uses all that remain.

  Raises:
    ValueError: the settings contradict one another.
  """
  given = {name: value for name, value in (
    ('num_partitions', num_partitions if num_partitions != 1 else None),
    ('model_parallel_submesh', model_parallel_submesh), ('mesh_shape', mesh_shape)) if value is not None}
  if len(given) > 1:
    found = ' and '.join(f'{name}={value}' for name, value in given.items())
    raise ValueError(f'partitioning.PjitPartitioner is given {found}, which all say how the model is spread. '
                     'Give one of them.')
  if mesh_shape is not None:
    return dict(mesh_shape)
  alone = 1 if num_partitions is None else num_partitions
  return {'model': math.prod(model_parallel_submesh or [alone])}
