"""A safetensors file with a digest of every array: the trained tensors of a run, or its whole state.

The file's only metadata entry, `state`, is `<sha256 of the rest> <JSON>`. The JSON holds `version`, `digests` (array
name -> sha256 of its type, shape and bytes) and the caller's `metadata`, so reading detects a flipped bit anywhere in
the file. There is only one entry because safetensors writes several in random order, and equal states must give equal
files.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from prompt_tuning.files import storage
from prompt_tuning.files.json_files import Fields, fields_of, parse_object
from prompt_tuning.names import printable
from prompt_tuning.types import Array, Flat

# What a run writes into its folder, and into those of its states.
_OF_RUNS = ('run.toml', 'metrics.jsonl', 'best.safetensors', 'last.safetensors', 'state.safetensors')
_ENTRY = 'state'
_VERSION = 1
_DTYPES = {
  'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': jnp.bfloat16,
  'I64': np.int64, 'I32': np.int32, 'I16': np.int16, 'I8': np.int8,
  'U64': np.uint64, 'U32': np.uint32, 'U16': np.uint16, 'U8': np.uint8, 'BOOL': np.bool_,
}


def write_state(path: str, arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
  """Writes arrays and JSON values into one file; equal arguments give equal bytes.

  Args:
    path: the file; an existing file is replaced only when the new one is complete.
    arrays: name -> array of numbers.
    metadata: name -> JSON value.

  Raises:
    ValueError: a value cannot be stored.
    OSError: the file cannot be written; an existing file is unchanged.
  """
  arrays = {name: dense(path, name, arrays[name]) for name in sorted(arrays)}
  text = _to_json(path, {
    'version': _VERSION,
    'digests': {name: _digest(array) for name, array in arrays.items()},
    'metadata': dict(metadata),
  })
  entry = f'{hashlib.sha256(text.encode()).hexdigest()} {text}'
  with storage.whole_file(path) as temporary:
    safetensors.numpy.save_file(arrays, temporary, metadata={_ENTRY: entry})


def read_state(path: str) -> tuple[Flat, dict[str, Any]]:
  """Returns the verified arrays and metadata of a file from `write_state`. `path` may be `gs://`.

  Raises:
    FileNotFoundError: `path` does not exist.
    ValueError: the file was not written by `write_state`, or is damaged.
  """
  return parse_state(path, storage.read_bytes(path))


def parse_state(path: str, content: bytes) -> tuple[Flat, dict[str, Any]]:
  """Does the same as `read_state` for a file's content; `path` is used in messages."""
  try:
    stored = dict(safetensors.deserialize(content))
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is truncated or not a safetensors file ({error}). '
                     'Give a file saved by a run, or an older one.') from error
  state = _read_entry(path, content)
  arrays = {name: _array(path, name, fields) for name, fields in stored.items()}
  _verify(path, arrays, state.digests)
  return arrays, state.metadata


def dense(path: str, name: str, array: Array) -> np.ndarray:
  """Returns `array` in C order and native byte order, as safetensors requires: it writes raw bytes."""
  array = np.asarray(array)
  native = array.dtype.newbyteorder('=')
  if native not in [np.dtype(dtype) for dtype in _DTYPES.values()]:
    raise ValueError(f'{path} cannot hold {name}: its type is {array.dtype}, but only numbers can be stored. '
                     'Convert it first.')
  return array.astype(native, order='C', copy=False)


def require_finite(path: str, name: str, array: Array) -> None:
  """Raises ValueError if an array holds a number that is not finite in float32, in which models read it."""
  with np.errstate(over='ignore'):
    finite = np.isfinite(np.asarray(array, np.float32))
  if not finite.all():
    place = tuple(map(int, np.argwhere(~finite)[0]))
    raise ValueError(f'{path}: {printable(name)}{list(place)} is {array[place]}, expected finite numbers in float32. '
                     'Use an older file, or train again with a lower learning rate.')


def numpy_dtype(path: str, name: str, stored: str) -> np.dtype:
  """Returns the NumPy type for the safetensors type `stored`, e.g. 'BF16'."""
  if stored not in _DTYPES:
    raise ValueError(f'{path} holds {name} as {stored}; this package reads {", ".join(_DTYPES)}. '
                     'Convert the file to one of these.')
  return np.dtype(_DTYPES[stored])


def _array(path: str, name: str, fields: Mapping[str, Any]) -> np.ndarray:
  return np.frombuffer(fields['data'], numpy_dtype(path, name, fields['dtype'])).reshape(fields['shape'])


class _State(Fields):
  version: int
  digests: dict[str, str]
  metadata: dict[str, Any]


def _read_entry(path: str, content: bytes) -> _State:
  length = int.from_bytes(content[:8], 'little')  # safetensors: length of the header, header, arrays
  entry = (json.loads(content[8:8 + length]).get('__metadata__') or {}).get(_ENTRY)
  if entry is None:
    raise ValueError(f'{path} is a safetensors file without digests, so it is not a state or prompt of this package. '
                     'Give a file saved by a run.')
  digest, _, text = entry.partition(' ')
  if hashlib.sha256(text.encode()).hexdigest() != digest:
    raise ValueError(f'{path} is damaged: its metadata has changed since it was written. Use an older file.')
  state = parse_object(path, text, 'a state')
  if state.get('version') != _VERSION:
    raise ValueError(f'{path} has version {state.get("version")!r} of the state format; this package reads {_VERSION}. '
                     'Read it with a newer version of the package.')
  return fields_of(path, state, _State)


def _verify(path: str, arrays: Flat, digests: Mapping[str, str]) -> None:
  if arrays.keys() != digests.keys():
    differing = ', '.join(map(printable, sorted(arrays.keys() ^ digests.keys())))
    raise ValueError(f'{path} is damaged: its arrays and its list of digests differ in {differing}. Use an older file.')
  for name, array in arrays.items():
    if _digest(array) != digests[name]:
      raise ValueError(f'{path} is damaged: the array {printable(name)} has changed since it was written. Use an '
                       'older file.')


def _digest(array: np.ndarray) -> str:
  digest = hashlib.sha256(f'{array.dtype.name} {array.shape}\n'.encode())
  digest.update(array.reshape(-1).view(np.uint8))
  return digest.hexdigest()


def _to_json(path: str, value: dict[str, Any]) -> str:
  try:
    return json.dumps(value)
  except TypeError as error:
    raise ValueError(f'{path} cannot hold this metadata: {error}. '
                     'Give numbers, strings, lists and dicts; pass arrays with `arrays`.') from error


def require_no_run(folder: str) -> None:
  """Raises ValueError if a local folder is that of a run, or of its state, and not of a model."""
  if os.path.exists(os.path.join(folder, 'config.json')):
    return
  if any(os.path.exists(os.path.join(folder, name)) for name in _OF_RUNS):
    raise ValueError(f'{folder} is the folder of a run, which holds trained tensors, not the frozen model. Give the '
                     'model that they are trained for as model=FOLDER. This folder can be the prompt of eval and '
                     'infer, and the start_from of train.')
