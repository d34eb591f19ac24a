"""Examples in ArrayRecord files, written once and read by index in any order."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.serialization
import numpy as np
from array_record.python import array_record_module

from prompt_tuning.data.tasks import Example

_OPTIONS = 'group_size:1'  # examples are read one by one


def encode(example: Example) -> bytes:
  """Returns an example as bytes; values are texts, bytes, numbers, arrays, or lists and dicts of them."""
  return flax.serialization.msgpack_serialize({key: _storable(value) for key, value in example.items()})


def decode(record: bytes) -> Example:
  """Returns the example that `encode` serialised; arrays of texts are returned as lists."""
  return flax.serialization.msgpack_restore(record)


def write(path: str, examples: Iterable[Example]) -> int:
  """Writes the examples in order, and a digest of the file beside it; returns how many."""
  count = write_alone(path, examples)
  with open(f'{os.fspath(path)}.sha256', 'w', encoding='ascii') as file:
    file.write(_digest(path))
  return count


def write_alone(path: str, examples: Iterable[Example]) -> int:
  """Does the same without a digest."""
  writer = array_record_module.ArrayRecordWriter(os.fspath(path), _OPTIONS)
  count = 0
  for example in examples:
    writer.write(encode(example))
    count += 1
  writer.close()
  return count


def is_whole(path: str) -> bool:
  """Returns True if a file is as `write` has written it."""
  try:
    with open(f'{os.fspath(path)}.sha256', 'rb') as file:
      return file.read() == _digest(path).encode()
  except FileNotFoundError:
    return False


def update(digest: Any, value: Any) -> None:
  """Adds a value of an example to a digest: a mapping, an array, ragged or not, or a plain value."""
  if isinstance(value, Mapping):
    for name in sorted(value):
      digest.update(repr(name).encode())
      update(digest, value[name])
  elif isinstance(value, np.ndarray) and value.dtype != object:
    digest.update(f'{value.dtype}{value.shape}'.encode())
    digest.update(np.ascontiguousarray(value))
  else:
    plain = next((getattr(value, name)() for name in ('tolist', 'to_list') if hasattr(value, name)), value)
    digest.update(repr(plain).encode())


class Records(Sequence[Example]):
  """The examples of a file written by `write`.

  Attributes:
    path: the file.
  """

  def __init__(self, path: str):
    self.path = path
    self._reader = array_record_module.ArrayRecordReader(path)

  def __len__(self) -> int:
    return self._reader.num_records()

  def __getitem__(self, index: int | slice) -> Any:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    if not -len(self) <= index < len(self):
      raise IndexError(f'{self.path} holds {len(self)} examples; index {index} is out of range.')
    return decode(self._reader.read([index % len(self)])[0])


def _digest(path: str) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _storable(value: Any) -> Any:
  if isinstance(value, np.ndarray) and value.dtype.kind in 'OSU':
    return value.tolist()
  return value
