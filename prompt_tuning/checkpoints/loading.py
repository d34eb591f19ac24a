"""Turns a checkpoint into the stacked parameters of a model, and back, with a table of names.

    Rule('encoder/layers_{i}/mlp/wo/kernel', 'encoder.block.{i}.layer.1.DenseReluDense.wo.weight', transpose=True)

This package uses T5X's names, so the table for T5X is None.
"""

import dataclasses
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from prompt_tuning import trees
from prompt_tuning.devices import sharding
from prompt_tuning.names import printable
from prompt_tuning.types import Flat, Params

_LISTED = 30  # names in one message
Part = tuple[slice, ...] | types.EllipsisType  # a slice of each axis of an array, or ... for all of it


class Reader(Protocol):
  """The interface of checkpoint readers, see `prompt_tuning.checkpoints`."""

  path: str

  def names(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]: ...

  def read(self, name: str, part: Part = ...) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Rule:
  """One row of a table of names.

  Several rules may have the same `ours`: the first whose name is in the checkpoint is read; the others must hold equal
  values. `save` uses the first.

  Attributes:
    ours: our name, with `layers_{i}` for a layer of a stack.
    theirs: the checkpoint's name, with `{i}` for the layer.
    transpose: the checkpoint's array is `[out, in]`, or `[E, out, in]` of experts.
  """

  ours: str
  theirs: str
  transpose: bool = False

  @property
  def path(self) -> str:
    """The stacked path that contains `ours` as a layer."""
    return self.ours.replace('layers_{i}', 'layers')

  def their_name(self, layer: int | None) -> str:
    """Returns the checkpoint's name of one layer."""
    return self.theirs if layer is None else self.theirs.replace('{i}', str(layer))


@dataclasses.dataclass(frozen=True)
class _Piece:
  """The checkpoint's array for one layer of a stacked array, or for a whole array that is not stacked."""

  ours: str
  candidates: tuple[tuple[str, bool], ...]  # their name, whether to transpose
  shape: tuple[int, ...]

  def found_in(self, known: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Returns the candidates in the checkpoint; all but the first are duplicates."""
    return [candidate for candidate in self.candidates if candidate[0] in known]


def load(reader: Reader, shapes: Mapping[str, jax.ShapeDtypeStruct], rules: Sequence[Rule] | None = None, *,
         dtype: Any = None, ignore: Iterable[str] = (), mesh: Mesh | None = None,
         finish: Callable[[str, jax.Array], Any] = lambda path, array: array) -> Params:
  """Returns the parameters, nested and stacked, on the default device, or sharded over a mesh.

  In addition to the result, it needs at most the size of the largest stacked array: arrays are filled layer by layer,
  the largest first, and on the CPU the filled buffer becomes the JAX array without a copy. With a mesh, each host reads
  only its devices' shards, one by one, and needs at most the size of the largest shard.

  Args:
    reader: the checkpoint.
    shapes: stacked path -> shape and type of every parameter of the model.
    rules: the table of names; None if the checkpoint uses our names.
    dtype: type of floating-point parameters; None means that of `shapes`.
    ignore: regular expressions of checkpoint names to skip; each must match the whole name.
    mesh: the devices over which parameters are sharded; None means one device.
    finish: converts each path's array to the value to keep, before the next one is read.

  Raises:
    ValueError: names or shapes of the checkpoint and the model do not agree, or an array is damaged.
  """
  pieces, ignore = _pieces(shapes, rules), tuple(ignore)
  known = {name: found for name, found in reader.names().items() if not trees.matches(name, ignore)}
  _require_agreement(reader.path, known, [piece for row in pieces.values() for piece in row])
  flat = {}
  for path in sorted(shapes, key=lambda path: -math.prod(shapes[path].shape)):
    wanted = shapes[path].dtype
    if dtype is not None and jnp.issubdtype(wanted, jnp.floating):
      wanted = dtype
    sources = [piece.found_in(known) for piece in pieces[path]]
    array = _read_array(reader, path, sources, jax.ShapeDtypeStruct(shapes[path].shape, wanted), mesh)
    flat[path] = finish(path, array)
  return trees.unflatten({path: flat[path] for path in sorted(flat)})


def save(params: Params, rules: Sequence[Rule] | None = None) -> Flat:
  """Returns arrays under the checkpoint's names, layer by layer: the inverse of `load`.

  The arrays are views of one copy on the host (on the CPU, of the parameters themselves), transposed if required.

  Raises:
    ValueError: a parameter has no rule.
  """
  flat = trees.flatten(params)
  pieces = _pieces(flat, rules)
  nameless = [path for path, row in pieces.items() if not all(piece.candidates for piece in row)]
  if nameless:
    raise ValueError(f'The table of names has no rule for {_listed(nameless)}. Add a rule for each.')
  named = {}
  for path, row in pieces.items():
    array = np.asarray(flat[path])
    for i, piece in enumerate(row):
      name, transpose = piece.candidates[0]
      part = array[i, ...] if trees.is_stacked(path) else array
      named[name] = np.swapaxes(part, -2, -1) if transpose else part
  return named


def _pieces(shapes: Mapping[str, Any], rules: Sequence[Rule] | None) -> dict[str, list[_Piece]]:
  """Returns stacked path -> its arrays in the checkpoint, layer by layer."""
  by_path: dict[str, list[Rule]] = {}
  for rule in rules or ():
    by_path.setdefault(rule.path, []).append(rule)
  pieces = {}
  for path, array in shapes.items():
    stacked, own = trees.is_stacked(path), by_path.get(trees.without_group(path), ())
    shape = tuple(array.shape[1:] if stacked else array.shape)
    pieces[path] = []
    for layer in range(array.shape[0]) if stacked else [None]:
      ours = path if layer is None else trees.layer_name(path, layer)
      number = None if layer is None else trees.layer_number(path, layer)
      candidates = [(rule.their_name(number), rule.transpose) for rule in own]
      pieces[path].append(_Piece(ours, tuple(candidates) if rules is not None else ((ours, False),), shape))
  return pieces


def _require_agreement(path: str, known: Mapping[str, tuple[tuple[int, ...], np.dtype]], pieces: list[_Piece]) -> None:
  understood = {name for piece in pieces for name, _ in piece.candidates}
  unknown = [name for name in known if name not in understood]
  missing, differing = [], []
  for piece in pieces:
    found = piece.found_in(known)
    if not found:
      missing.append(piece.candidates[0][0] if piece.candidates else f'{piece.ours} (no rule for it)')
    for name, transpose in found:
      shape, dtype = known[name]
      wanted = (*piece.shape[:-2], *piece.shape[:-3:-1]) if transpose else piece.shape
      if tuple(shape) != wanted:
        differing.append(f'{name}: found {tuple(shape)}, expected {wanted}')
      elif not jnp.issubdtype(dtype, jnp.floating):
        differing.append(f'{name}: found type {dtype}, expected floating point')
  problems = []
  if unknown:
    problems.append(f'Arrays that the model lacks: {_listed(_join_layers(unknown))}.')
  if missing:
    problems.append(f'Parameters that the checkpoint lacks: {_listed(_join_layers(missing))}.')
  if differing:
    problems.append(f'Arrays of another shape or type: {_listed(differing)}.')
  if problems:
    raise ValueError('\n'.join([
      f'{path} does not fit the model.', *problems,
      'Use the model configuration of the checkpoint, or ignore names that are not needed.']))


def _read_array(reader: Reader, path: str, sources: list[list[tuple[str, bool]]],
                wanted: jax.ShapeDtypeStruct, mesh: Mesh | None) -> jax.Array:
  shape = wanted.shape
  if mesh is None:
    return jax.device_put(_read_shard(reader, path, sources, wanted)).block_until_ready()
  place = sharding.parameter_sharding(path, shape, mesh)
  devices: dict[tuple[tuple[int, int], ...], list[Any]] = {}  # replicas are read once
  for device, index in place.addressable_devices_indices_map(shape).items():
    spans = tuple(each.indices(size)[:2] for each, size in zip(index, shape, strict=True))
    devices.setdefault(spans, []).append(device)
  held = []
  for spans, where in devices.items():
    shard = _read_shard(reader, path, sources, wanted, tuple(slice(*span) for span in spans))
    held += [jax.device_put(shard, device).block_until_ready() for device in where]
  return jax.make_array_from_single_device_arrays(shape, place, held)


def _read_shard(reader: Reader, path: str, sources: list[list[tuple[str, bool]]], wanted: jax.ShapeDtypeStruct,
                part: Part = ...) -> np.ndarray:
  """Returns a parameter with all its layers, or a slice of it."""
  stacked, sizes, inner = trees.is_stacked(path), wanted.shape, part
  if part is not ...:
    sizes = tuple(each.stop - each.start for each in part)
    inner = part[1:] if stacked else part
  filled = _aligned_empty(sizes, jnp.dtype(wanted.dtype))
  for i, (first, *duplicates) in enumerate(sources):
    place = filled[i, ...] if stacked else filled
    place[...] = _read_oriented(reader, *first, inner)
    for duplicate in duplicates:
      if not np.array_equal(place, _read_oriented(reader, *duplicate, inner).astype(place.dtype, copy=False)):
        raise ValueError(f'{reader.path}: {duplicate[0]} differs from {first[0]}, but the model uses one for both. '
                         'Choose a model configuration with separate parameters.')
  return filled


def _read_oriented(reader: Reader, name: str, transpose: bool, part: Part) -> np.ndarray:
  if not transpose:
    return reader.read(name, part)
  part = part if part is ... else (*part[:-2], *part[:-3:-1])
  return np.swapaxes(reader.read(name, part), -2, -1)


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """Returns an array at an aligned address, which JAX on the CPU uses without a copy."""
  alignment, size = 64, math.prod(shape) * dtype.itemsize
  memory = np.empty(size + alignment, np.uint8)
  start = -memory.ctypes.data % alignment
  return memory[start:start + size].view(dtype).reshape(shape)


def _join_layers(names: list[str]) -> list[str]:
  """Joins names that differ only in their first number: `layers_{2..5}/mlp/wo/kernel`."""
  joined: dict[str, list[int]] = {}
  for name in names:
    number = re.search(r'\d+', name)
    pattern = f'{name[:number.start()]}\0{name[number.end():]}' if number else name
    joined.setdefault(pattern, []).append(int(number.group()) if number else 0)
  return [pattern.replace('\0', _ranges(numbers)) for pattern, numbers in joined.items()]


def _ranges(numbers: list[int]) -> str:
  first, last = min(numbers), max(numbers)
  if first == last:
    return str(first)
  whole = len(numbers) == last - first + 1
  return f'{{{first}..{last}}}' if whole else f'{{{",".join(map(str, sorted(numbers)))}}}'


def _listed(names: list[str]) -> str:
  rest = f' and {len(names) - _LISTED} more' if len(names) > _LISTED else ''
  return ', '.join(map(printable, names[:_LISTED])) + rest
