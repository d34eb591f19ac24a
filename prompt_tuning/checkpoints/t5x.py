"""T5X checkpoints: reads the native and Orbax layouts, writes the native one.

Native (version 3): `checkpoint_<step>/checkpoint` is a msgpack tree whose leaves are arrays, None, or descriptions of
zarr arrays in sibling folders `target.<dotted name>`. Old checkpoints keep all small arrays in the msgpack file, newer
ones only the step.

Orbax: `checkpoint_<step>/state` is one OCDBT key-value store of the same zarr arrays, or in 2022 and 2023 a folder of
them; newer ones may be zarr 3. Its chunks have no checksum, so damage that zstd accepts goes undetected; gzip, in the
native layout, has one.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import flax.serialization
import jax.numpy as jnp
import numpy as np
import tensorstore

from prompt_tuning import trees
from prompt_tuning.files import storage
from prompt_tuning.names import nearest
from prompt_tuning.types import Array

_VERSION = 3
_CHUNK_BYTES = 64 * 2**20
_STEP = re.compile(r'checkpoint_(\d+)')
_UNFINISHED = re.compile(r'checkpoint_\d+\.(tmp|orbax-checkpoint-tmp)-.*')
_NATIVE_FILE = 'checkpoint'
_ORBAX_FILE = 'state/manifest.ocdbt'
_ORBAX_FOLDERS = 'state'  # of Orbax before OCDBT
_ZARR = {'.zarray': ('zarr', 'dtype'), 'zarr.json': ('zarr3', 'data_type')}  # file -> driver, its name for the type
_TENSORFLOW = b'model_checkpoint_path'  # first bytes of the file 'checkpoint' that TensorFlow writes
_LAYOUTS = f'a file {_NATIVE_FILE!r} (native layout), {_ORBAX_FILE!r} or arrays in {_ORBAX_FOLDERS!r} (Orbax layout)'
_COMPRESSOR = {'id': 'gzip', 'level': 1}


@dataclasses.dataclass(frozen=True)
class _Stored:
  """A zarr array outside the msgpack file."""

  kvstore: Mapping[str, Any]
  shape: tuple[int, ...]
  dtype: np.dtype
  driver: str = 'zarr'


class T5XCheckpoint:
  """Reads one T5X checkpoint, array by array.

  Attributes:
    path: the folder `checkpoint_<step>`.
    step: the step at which it was saved.
  """

  def __init__(self, path: str, *, part: str = 'target'):
    """Finds the checkpoint and reads its list of arrays.

    Args:
      path: local or `gs://`: the folder `checkpoint_<step>`, the file `checkpoint` in it, or a folder of such folders,
        of which the newest is used.
      part: 'target' for the parameters, 'state' for the optimiser state.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the checkpoint is damaged or has an unknown layout.
    """
    self.path, layout, content = _find(str(path))
    if layout == _NATIVE_FILE:
      self._arrays, self.step = _list_native(self.path, content, part)
    else:
      self._arrays, self.step = _list_orbax(self.path, part, ocdbt=layout == _ORBAX_FILE)

  def names(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns name -> shape and type, without reading the arrays; names are without the leading `target/`."""
    return {name: (tuple(array.shape), _visible_dtype(array.dtype)) for name, array in self._arrays.items()}

  def read(self, name: str, part: Any = ...) -> np.ndarray:
    """Returns one array, or a slice of each of its axes. Only the required chunks are read.

    Raises:
      KeyError: the checkpoint has no such array.
      ValueError: a chunk is missing or damaged.
    """
    if name not in self._arrays:
      raise KeyError(f'{self.path} has no array {name}.{nearest(name, self._arrays)}')
    array = self._arrays[name]
    array = _read_stored(self.path, name, array, part) if isinstance(array, _Stored) else array[part]
    return array.view(_visible_dtype(array.dtype))


def write_t5x(folder: str, step: int, named: Mapping[str, Array]) -> str:
  """Writes `folder/checkpoint_<step>` in the native layout and returns its path.

  Args:
    folder: a local folder.
    step: the step of the checkpoint.
    named: '/'-joined name, layer by layer -> array. Arrays are stored unchanged, without optimiser state, as T5X does
      for parameters that are not trained.

  Raises:
    FileExistsError: the checkpoint already exists.
    OSError: it cannot be written; nothing is left of it.
  """
  path = os.path.join(folder, f'checkpoint_{step}')
  with storage.whole_folder(path) as temporary:
    target = {name: _write_array(temporary, f'target.{name.replace("/", ".")}', np.asarray(array))
              for name, array in named.items()}
    tree = {'version': _VERSION, 'optimizer': {
      'target': trees.unflatten(target),
      'state': {'step': np.asarray(step, np.int32), 'param_states': trees.unflatten(dict.fromkeys(named))}}}
    with open(os.path.join(temporary, _NATIVE_FILE), 'wb') as file:
      file.write(flax.serialization.msgpack_serialize(tree))
  return path


def _find(path: str) -> tuple[str, str, bytes]:
  """Returns the checkpoint folder for `path`, and the name and content of its layout's main file."""
  path = path.rstrip('/')
  parent, last = os.path.split(path)
  if last == _NATIVE_FILE and _STEP.fullmatch(os.path.basename(parent)):
    path, last = parent, os.path.basename(parent)
  if _UNFINISHED.fullmatch(last):
    raise ValueError(f'{path} is incomplete: its writer was interrupted. Give another checkpoint.')
  if not storage.is_remote(path) and os.path.exists(f'{path}.index'):
    raise _of_tensorflow(path)
  if not storage.is_remote(path) and not os.path.isdir(path):
    found = 'a file' if os.path.exists(path) else 'nothing'
    raise FileNotFoundError(f'{path}: found {found}, expected a T5X folder checkpoint_<step>, or a folder of such '
                            'folders. Check the path.')
  if main := _main_file(path):
    return path, *main
  steps = [int(match.group(1)) for match in map(_STEP.fullmatch, _list_folders(path)) if match]
  if not steps:
    raise FileNotFoundError(f'{path} is not a T5X checkpoint: it holds neither {_LAYOUTS}, nor folders '
                            'checkpoint_<step>. Check the path; a folder with config.json is a Hugging Face model.')
  newest = storage.join(path, f'checkpoint_{max(steps)}')
  if main := _main_file(newest):
    return newest, *main
  raise FileNotFoundError(f'{newest} is the newest checkpoint of {path}, but holds neither {_LAYOUTS}. '
                          'Remove it, or give the path of another one.')


def _main_file(path: str) -> tuple[str, bytes] | None:
  try:
    store = tensorstore.KvStore.open(_folder_spec(path)).result()
    for name in (_NATIVE_FILE, _ORBAX_FILE):
      result = store.read(name).result()
      if result.state == 'value':
        return name, result.value
    folders = tensorstore.KvStore.open(_folder_spec(storage.join(path, _ORBAX_FOLDERS))).result()
    if any(key.decode().rpartition('/')[-1] in _ZARR for key in folders.list().result()):
      return _ORBAX_FOLDERS, b''
  except Exception as error:  # tensorstore raises several types
    raise OSError(f'{path} cannot be read: {_reason(error)}. Check the path and its permissions.') from error
  return None


def _list_folders(path: str) -> set[str]:
  if storage.is_remote(path):
    store = tensorstore.KvStore.open(_folder_spec(path)).result()
    return {key.decode().split('/')[0] for key in store.list().result()}
  return {name for name in os.listdir(path) if os.path.isdir(os.path.join(path, name))}


def _of_tensorflow(path: str) -> ValueError:
  return ValueError(f'{path} is a TensorFlow checkpoint, as of the first T5 releases; expected one of T5X or a Hugging '
                    'Face folder. Convert it with `python -m t5x.scripts.convert_tf_checkpoint`, or download the model '
                    'in one of these forms.')


def _list_native(path: str, content: bytes, part: str) -> tuple[dict[str, Any], int]:
  """Returns the arrays and the step of a native checkpoint."""
  file = storage.join(path, _NATIVE_FILE)
  if content.startswith(_TENSORFLOW):
    raise _of_tensorflow(path)
  try:
    tree = flax.serialization.msgpack_restore(content)
    version, optimizer = tree['version'], tree['optimizer']
    leaves, step = _leaves(optimizer[part]), int(optimizer['state']['step'])
    arrays = {name: _native_leaf(path, leaf) for name, leaf in leaves.items() if leaf is not None}
  except Exception as error:  # msgpack raises a dozen unrelated types
    raise ValueError(f'{file} is damaged or not a T5X file: {type(error).__name__}: {error}. '
                     'Copy the checkpoint again.') from error
  if version not in (2, _VERSION):
    raise ValueError(f'{file} has version {version} of the native layout; this package reads 2 and {_VERSION}. '
                     'Load it with a T5X release that supports it, and save it again.')
  return arrays, step


def _leaves(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns the flat tree; the description of a zarr array is a leaf, although it is a dict."""
  leaves = {}
  for key in sorted(tree):
    value, name = tree[key], f'{prefix}{key}'
    if isinstance(value, Mapping) and not {'driver', 'metadata'} <= value.keys():
      leaves.update(_leaves(value, f'{name}/'))
    else:
      leaves[name] = value
  return leaves


def _native_leaf(path: str, leaf: Any) -> np.ndarray | _Stored:
  if not isinstance(leaf, Mapping):
    return np.asarray(leaf)
  # Old files have the path at the top level; only the folder's name matters, wherever it was written.
  folder = os.path.basename(leaf.get('kvstore', leaf).get('path', leaf.get('path')).rstrip('/'))
  metadata = leaf['metadata']
  return _Stored(
    kvstore=_folder_spec(storage.join(path, folder)),
    shape=tuple(metadata['shape']),
    dtype=jnp.dtype(metadata.get('dtype') or leaf['dtype']))


def _list_orbax(path: str, part: str, *, ocdbt: bool) -> tuple[dict[str, Any], int]:
  """Returns the arrays and the step of an Orbax checkpoint."""
  state = storage.join(path, 'state')
  root = {'driver': 'ocdbt', 'base': _folder_spec(state)} if ocdbt else _folder_spec(state)
  inside = root.get('path', '')
  arrays = {}
  try:
    store = tensorstore.KvStore.open(root).result()
    for key in store.list().result():
      folder, _, last = key.decode().rpartition('/')
      if last in _ZARR:
        driver, name_of_type = _ZARR[last]
        metadata = json.loads(store.read(key).result().value)
        if metadata.get('node_type') != 'group':  # of zarr 3
          arrays[folder.replace('.', '/')] = _Stored(
            root | {'path': f'{inside}{folder}/'}, tuple(metadata['shape']), jnp.dtype(metadata[name_of_type]), driver)
    if 'state/step' not in arrays:
      raise ValueError("it lacks 'state/step'")
    step = int(_read_stored(path, 'state/step', arrays['state/step']))
  except Exception as error:  # tensorstore raises several types
    raise ValueError(f'{state} is damaged or not a T5X state: {_reason(error)}. Copy the checkpoint again.') from error
  return {name.removeprefix(f'{part}/'): array for name, array in arrays.items() if name.startswith(f'{part}/')}, step


def _read_stored(path: str, name: str, stored: _Stored, part: Any = ...) -> np.ndarray:
  try:
    # Without this option a missing chunk reads as zeros.
    spec = {'driver': stored.driver, 'kvstore': stored.kvstore, 'fill_missing_data_reads': False}
    array = tensorstore.open(spec, open=True, read=True).result()
    if array.shape != stored.shape:
      raise ValueError(f'its shape is {array.shape}, but {_NATIVE_FILE!r} says {stored.shape}')
    return array[part].read().result()
  except Exception as error:  # tensorstore raises several types
    raise ValueError(f'{path}: the array {name} cannot be read: {_reason(error)}. '
                     'A part is missing or damaged; copy the checkpoint again.') from error


def _write_array(folder: str, name: str, array: np.ndarray) -> dict[str, Any]:
  """Writes one zarr array and returns its description for the msgpack file."""
  metadata = {'shape': list(array.shape), 'chunks': _chunk_shape(array.shape, array.itemsize),
              'compressor': _COMPRESSOR}
  spec = {'driver': 'zarr', 'dtype': array.dtype.name, 'metadata': metadata}
  tensorstore.open(
    spec | {'kvstore': _folder_spec(os.path.join(folder, name))}, create=True).result().write(array).result()
  return spec | {'kvstore': {'driver': 'file', 'path': f'{name}/'}}


def _chunk_shape(shape: tuple[int, ...], itemsize: int) -> list[int]:
  """Returns a chunk shape that divides `shape` evenly and holds at most 64 MiB."""
  chunk = list(shape)
  while math.prod(chunk) * itemsize > _CHUNK_BYTES:
    divisor, _, axis = min((_smallest_divisor(size), -size, axis) for axis, size in enumerate(chunk) if size > 1)
    chunk[axis] //= divisor
  return chunk


def _smallest_divisor(size: int) -> int:
  return next((d for d in range(2, math.isqrt(size) + 1) if size % d == 0), size)


def _visible_dtype(dtype: np.dtype) -> np.dtype:
  """Returns bfloat16 for uint16, as which version 2 stores it; parameters are never unsigned integers."""
  return jnp.dtype(jnp.bfloat16) if dtype == np.uint16 else dtype


def _folder_spec(path: str) -> dict[str, str]:
  """Returns tensorstore's description of a local or `gs://` folder."""
  if storage.is_remote(path):
    bucket, _, rest = path.removeprefix('gs://').partition('/')
    # An unreachable store fails after half a minute; the default is 32 attempts.
    return {'driver': 'gcs', 'bucket': bucket, 'path': f'{rest.rstrip("/")}/' if rest else '',
            'gcs_request_retries': {'max_retries': 5}}
  return {'driver': 'file', 'path': f'{os.path.abspath(path)}/'}


def _reason(error: Exception) -> str:
  return str(error).split(' [tensorstore_spec=')[0]
