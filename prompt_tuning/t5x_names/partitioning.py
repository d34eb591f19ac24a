"""`partitioning.…`: over which devices a model is spread."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning import trees
from prompt_tuning.devices import meshes

__all__ = ['PjitPartitioner']


@dataclasses.dataclass(frozen=True)
class PjitPartitioner:
  """How a model is spread over all devices of all hosts, see `prompt_tuning/devices/sharding.py`.

  Attributes:
    num_partitions: over how many devices each parameter is spread (the axis `model`); the others hold copies.
    model_parallel_submesh: the same as a shape of TPUs, such as (2, 2, 1, 1).
    mesh_shape: devices along each axis instead, such as {'data': -1, 'fsdp': 8, 'model': 1}; -1 is all that are left.
  """

  num_partitions: int | None = 1
  model_parallel_submesh: Sequence[int] | None = None
  mesh_shape: Mapping[str, int] | None = None

  def __post_init__(self) -> None:
    _ = self.shape  # its mistakes are found now

  @property
  def shape(self) -> meshes.MeshShape:
    """How many devices stand along each axis.

    Raises:
      ValueError: the settings contradict one another, or an axis is unknown.
    """
    given = {name: value for name, value in (
      ('num_partitions', self.num_partitions if self.num_partitions != 1 else None),
      ('model_parallel_submesh', self.model_parallel_submesh), ('mesh_shape', self.mesh_shape)) if value is not None}
    if len(given) > 1:
      found = ' and '.join(f'{name}={value}' for name, value in given.items())
      raise ValueError(f'partitioning.PjitPartitioner is given {found}, which all say how the model is spread. '
                       'Give one of them.')
    if self.mesh_shape is None:
      alone = 1 if self.num_partitions is None else self.num_partitions
      return meshes.MeshShape(model=math.prod(self.model_parallel_submesh or [alone]))
    unknown = [axis for axis in self.mesh_shape if axis not in meshes.AXES]
    if unknown:
      raise ValueError(f'partitioning.PjitPartitioner.mesh_shape has the axis {unknown[0]!r}.'
                       f'{trees.nearest(unknown[0], meshes.AXES)} There are {", ".join(meshes.AXES)}.')
    return meshes.MeshShape(**self.mesh_shape)

  def mesh(self) -> Any:
    """Returns the mesh of all devices; None where there is but one.

    Raises:
      ValueError: the devices do not fill it.
    """
    return meshes.make_mesh(self.shape)
