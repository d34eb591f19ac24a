"""GGUF files, in which llama.cpp keeps a model: metadata and arrays. The only file that imports gguf."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

SUFFIX = '.gguf'


@dataclasses.dataclass(frozen=True, eq=False)
class GgufFile:
  """An opened file.

  Attributes:
    path: the file.
    values: the metadata, key -> value.
    architecture: `general.architecture`.
  """

  path: str
  values: Mapping[str, Any]
  _tensors: Mapping[str, Any] = dataclasses.field(repr=False)

  @property
  def architecture(self) -> str:
    return str(self.values.get('general.architecture', ''))

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of every array, the outputs of a layer first."""
    return {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in self._tensors.items()}

  def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Returns an array, or some of its rows, in float32."""
    import gguf

    tensor = self._tensors[name]
    return gguf.dequantize(tensor.data[rows], tensor.tensor_type)


def open_gguf(path: str) -> GgufFile:
  """Returns a file, opened once until it changes.

  Raises:
    FileNotFoundError: there is no such file.
    ImportError: gguf is not installed.
    ValueError: the file is damaged, a part of a model, not a model, or holds arrays of a type that cannot be read.
  """
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{path}: there is no such file. Give a GGUF file.')
  found = os.stat(path)
  return _open(os.fspath(path), found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=1)
def _open(path: str, *_: int) -> GgufFile:
  try:
    import gguf
  except ImportError as error:
    raise ImportError(f"{path} is read with the package gguf, which is not installed: `pip install '.[gguf]'`.") from (
      error)
  try:
    reader = gguf.GGUFReader(path)
    values = {name: _value(field, gguf) for name, field in reader.fields.items() if not name.startswith('GGUF.')}
  except Exception as error:  # the package raises whatever the bytes lead to
    raise ValueError(f'{path} is damaged, or not a GGUF file ({type(error).__name__}: {error}). Download it '
                     'again.') from error
  count, kind = values.get('split.count', 1), values.get('general.type', 'model')
  if count not in (0, 1):
    raise ValueError(f'{path} is one of {count} parts of a model. Join them with llama-gguf-split --merge.')
  if kind != 'model':
    raise ValueError(f'{path} sets general.type to {kind!r}; expected \'model\'. Give the file of the language model.')
  for tensor in reader.tensors:
    if not _is_readable(tensor.tensor_type):
      readable = ', '.join(each.name for each in gguf.GGMLQuantizationType if _is_readable(each))
      raise ValueError(f'{path} holds {tensor.name} as {tensor.tensor_type.name}, which cannot be read. Get a file '
                       f'with arrays of these types: {readable}.')
  return GgufFile(path, values, {tensor.name: tensor for tensor in reader.tensors})


def _value(field: Any, gguf: Any) -> Any:
  value = field.contents()
  # The shortest decimal number: 1e-05, which was written, not 9.999999747378752e-06.
  return float(str(np.float32(value))) if field.types == [gguf.GGUFValueType.FLOAT32] else value


@functools.cache
def _is_readable(kind: Any) -> bool:
  import gguf

  try:
    gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
  except NotImplementedError:
    return False
  return True
