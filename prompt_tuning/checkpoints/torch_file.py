"""Files of `torch.save` with one tensor, written without torch: a zip of a pickle and of the tensor's bytes.

The pickle only names torch's functions, so `torch.load(path, weights_only=True)` reads the file.
"""

import io
import math
import pickle
import sys
import zipfile
from typing import Any

import numpy as np

from prompt_tuning.files import storage
from prompt_tuning.types import Array

# NumPy type -> the class of torch that holds its values.
_STORAGES = {'float32': 'FloatStorage', 'float16': 'HalfStorage', 'bfloat16': 'BFloat16Storage'}
_ALIGNED = 64  # bytes


def write_tensor(path: str, array: Array) -> None:
  """Writes one tensor so that `torch.load` reads it; equal arrays give equal bytes.

  Args:
    path: the file.
    array: of float32, float16 or bfloat16.

  Raises:
    ValueError: the array has another type.
    OSError: the file cannot be written; an existing file is unchanged.
  """
  array = np.asarray(array)
  if array.dtype.name not in _STORAGES:
    raise ValueError(f'{path} cannot hold {array.dtype}: expected {", ".join(_STORAGES)}. Convert the array first.')
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w') as archive:
    for name, data in (('data.pkl', _pickled(array)), ('byteorder', sys.byteorder.encode()),
                       ('data/0', array.tobytes()), ('version', b'3\n')):
      entry = zipfile.ZipInfo(f'archive/{name}')
      padding = -(content.tell() + 30 + len(entry.filename) + 4) % _ALIGNED  # zip: 30 bytes, name, extra field
      entry.extra = b'FB' + padding.to_bytes(2, 'little') + bytes(padding)
      archive.writestr(entry, data)
  storage.write_bytes(path, content.getvalue())


def _pickled(array: np.ndarray) -> bytes:
  """Returns the pickle of `torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, grad, hooks)`."""
  strides = tuple(math.prod(array.shape[axis + 1:]) for axis in range(array.ndim))
  place = b'(' + _plain('storage') + _named('torch', _STORAGES[array.dtype.name]) + b''.join(
    map(_plain, ('0', 'cpu', array.size))) + b'tQ'  # the values are in data/0
  arguments = b'(' + place + b''.join(map(_plain, (0, array.shape, strides, False))) + (
    _named('collections', 'OrderedDict') + b')R') + b't'
  return b'\x80\x02' + _named('torch._utils', '_rebuild_tensor_v2') + arguments + b'R.'


def _named(module: str, name: str) -> bytes:
  return f'c{module}\n{name}\n'.encode()


def _plain(value: Any) -> bytes:
  """Returns a plain value as a part of a pickle."""
  return pickle.dumps(value, protocol=2)[2:-1]  # without the pickle's first and last marks
