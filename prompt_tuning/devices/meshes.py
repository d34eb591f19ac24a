"""The mesh: the number of devices along each of the three axes (see `sharding`), and checks of what they split."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

AXES = ('data', 'fsdp', 'model')


@dataclasses.dataclass(frozen=True)
class MeshShape:
  """The number of devices along each axis.

  Attributes:
    data: copies of the model; -1 uses all devices that the other axes leave.
    fsdp: the number of devices over which the parameters' width and the rows are split.
    model: the number of devices over which heads, hidden width and vocabulary are split.

  Raises:
    ValueError: a number is below 1.
  """

  data: int = -1
  fsdp: int = 1
  model: int = 1

  def __post_init__(self) -> None:
    if self.data < -1 or 0 in (self.data, self.fsdp, self.model) or min(self.fsdp, self.model) < 1:
      raise ValueError(f'The mesh {dataclasses.asdict(self)} is not valid. Use numbers of at least 1, or data=-1 '
                       'to use all remaining devices.')

  def filled(self, devices: int) -> 'MeshShape':
    """Returns the shape for this number of devices.

    Raises:
      ValueError: there are too many or too few devices.
    """
    apart = self.fsdp * self.model
    if self.data == -1 and devices % apart == 0:
      return dataclasses.replace(self, data=devices // apart)
    if self.data * apart != devices:
      wanted = f'a multiple of {apart}' if self.data == -1 else str(self.data * apart)
      raise ValueError(f'There are {devices} devices, but a mesh of {self} needs {wanted}. Choose a shape whose '
                       f'product is {devices}, such as data={devices}, fsdp=1, model=1, or run on {wanted} devices.')
    return self

  def __str__(self) -> str:
    return ' x '.join(f'{axis}={getattr(self, axis)}' for axis in AXES)


def make_mesh(shape: MeshShape = MeshShape(), devices: Sequence[Any] | None = None) -> Mesh | None:
  """Returns the mesh of all devices of all hosts; None if there is only one device.

  Args:
    shape: the number of devices along each axis.
    devices: the devices to use instead of all.

  Raises:
    ValueError: the devices do not fill the shape.
  """
  devices = jax.devices() if devices is None else devices
  shape = shape.filled(len(devices))
  if len(devices) == 1:
    return None
  sizes = tuple(getattr(shape, axis) for axis in AXES)
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def require_fit(mesh: Mesh | None, config: Any) -> None:
  """Checks that a mesh splits a model evenly.

  Args:
    mesh: from `make_mesh`.
    config: the model's config, with `heads`, `kv_heads`, `mlp_dim`, `width` and `embedding_width`, or with `stacks`
      that have them.

  Raises:
    ValueError: a dimension cannot be split evenly; the message names meshes that fit.
  """
  if mesh is None:
    return
  for each in getattr(config, 'stacks', (config,)):
    sizes = {'heads': each.heads, 'KV heads': getattr(each, 'kv_heads', 0) or each.heads,
             'hidden width of the MLP': each.mlp_dim}
    if getattr(each, 'wide', None):
      sizes['KV heads of the wide layers'] = each.wide.kv_heads
    if getattr(each, 'shared_mlp_dim', 0):
      sizes['hidden width of the shared layers\' MLP'] = each.shared_mlp_dim
    if getattr(each, 'layer_embedding', 0):
      sizes['width of the layers\' embeddings'] = each.layer_embedding
    if getattr(each, 'delta', None):
      sizes['key heads of the delta layers'] = each.delta.key_heads
    for axis, dimensions in (('model', sizes), ('fsdp', {'width': each.width, **_embedding(each)})):
      _require_even(axis, mesh.shape[axis], dimensions)


def _embedding(config: Any) -> dict[str, int]:
  width = getattr(config, 'embedding_width', 0)
  return {'width of the embedding': width} if width else {}


def rows_at_once(mesh: Mesh | None, batch_size: int, microbatches: int | None = None) -> int:
  """Returns the number of rows, over all devices, that run at once.

  Raises:
    ValueError: the batch cannot be split into this number of microbatches, or a microbatch over the mesh.
  """
  rows = batch_size // (microbatches or 1)
  if rows * (microbatches or 1) != batch_size:
    raise ValueError(f'microbatches={microbatches} cannot be used with batch_size={batch_size}. Choose a number that '
                     'divides the batch size.')
  shards = mesh.shape['data'] * mesh.shape['fsdp'] if mesh is not None else 1
  if rows % shards:
    each = f' with microbatches={microbatches}, of {rows} rows each' if microbatches else ''
    raise ValueError(f'batch_size={batch_size}{each} cannot be used: the mesh splits rows over data x fsdp = {shards} '
                     f'devices. Choose a multiple of {shards}, or a mesh whose data x fsdp divides {rows}, such as '
                     f'{_closest(math.gcd(rows, shards), mesh)}.')
  return rows


def _require_even(axis: str, size: int, dimensions: Mapping[str, int]) -> None:
  wrong = {name: length for name, length in dimensions.items() if length % size}
  if wrong:
    common = math.gcd(*dimensions.values())
    fitting = [str(n) for n in range(1, common + 1) if common % n == 0]
    found = ' and '.join(f'{length} {name}' if 'head' in name else f'a {name} of {length}'
                         for name, length in wrong.items())
    raise ValueError(f'The model has {found}, which {axis}={size} does not divide. Choose a mesh with {axis}='
                     f'{", ".join(fitting[-6:])}.')


def _closest(shards: int, mesh: Mesh) -> str:
  apart = mesh.size // shards
  return f'data={shards}, fsdp=1, model={apart}' if mesh.size % shards == 0 else f'data={shards} on {shards} devices'


def device(mesh: Any) -> Any:
  """Returns a device of the kind that programs for this mesh are compiled for; None and abstract meshes have JAX's own.

  The devices of a mesh may only be a compilation target.
  """
  return mesh.devices.flat[0] if isinstance(mesh, Mesh) else jax.local_devices()[0]
