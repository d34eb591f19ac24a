"""Files with a single prompt: a NumPy array `[P, D]`, with or without the suffix `.npy`, or a run's safetensors file.

NumPy files are parsed here instead of by `np.load`, so that nothing is unpickled and no header can make the reader
allocate more than the file holds.
"""

import io
import math
import os
import re

import jax.numpy as jnp
import numpy as np

from prompt_tuning.checkpoints import state
from prompt_tuning.files import storage
from prompt_tuning.names import printable
from prompt_tuning.types import Array

MAGIC = b'\x93NUMPY'  # first bytes of a NumPy file
_BFLOAT16 = np.dtype('V2')  # NumPy writes it as an opaque type
_PROMPT = re.compile(r'(.*/)?prompt/prompt/prompt')  # the parameter's path in earlier tools


def read_prompt(path: str) -> np.ndarray:
  """Returns a prompt `[P, D]` in float32. `path` may be `gs://`.

  Raises:
    FileNotFoundError: `path` does not exist.
    ValueError: the file holds no prompt, is damaged, or holds numbers that are not finite.
  """
  if not storage.is_remote(path):
    _require_file(path)
  content = storage.read_bytes(path)
  if content.startswith(MAGIC):
    array = _parse_numpy(path, content)
  elif content[8:9] == b'{':  # safetensors: eight bytes of length, then JSON
    array = _from_state(path)
  else:
    raise ValueError(f'{path} starts with {content[:6]!r}: neither NumPy ({MAGIC!r}) nor safetensors. '
                     'Give an array [prompt length, width] written by np.save, or the prompt.safetensors of a run.')
  state.require_finite(path, 'the prompt', array)
  return _checked(path, array)


def write_numpy_prompt(path: str, prompt: Array) -> None:
  """Writes a prompt `[P, D]` as NumPy float32 under exactly this name, which need not end in `.npy`.

  Raises:
    ValueError: the array is not a prompt.
    OSError: the file cannot be written; an existing file is unchanged.
  """
  content = io.BytesIO()
  np.lib.format.write_array(content, _checked(path, np.asarray(prompt)), allow_pickle=False)
  with storage.whole_file(path) as temporary, open(temporary, 'wb') as file:
    file.write(content.getbuffer())


def _require_file(path: str) -> None:
  if os.path.isdir(path):
    raise ValueError(f'{path} is a folder, expected a file. Give the prompt in it, such as prompt.safetensors.')
  if not os.path.exists(path):
    hint = f' Did you mean {path}.npy?' if os.path.exists(f'{path}.npy') else ''
    raise FileNotFoundError(f'{path}: there is no such prompt file. Check the path.{hint}')


def _parse_numpy(path: str, content: bytes) -> np.ndarray:
  file = io.BytesIO(content)
  try:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read_header(file)
    if any(type(size) is not int or size < 0 for size in shape):
      raise ValueError(f'its shape is {shape}')
  except Exception as error:  # NumPy reads the header as Python source, which fails in several ways
    raise ValueError(f'{path} is truncated or damaged: its NumPy header cannot be read ({error}). '
                     'Copy or save the file again.') from error
  if dtype.hasobject:
    raise ValueError(f'{path} holds Python objects, which are never loaded because loading runs code. '
                     'Save the prompt as an array of float32.')
  if dtype != _BFLOAT16:
    _require_floating(path, dtype)
  found, promised = len(content) - file.tell(), math.prod(shape) * dtype.itemsize
  if found != promised:
    raise ValueError(f'{path} holds {found} bytes of data, but its header declares {promised} for shape {shape} '
                     f'of {dtype}: the file is {"truncated" if found < promised else "damaged"}. '
                     'Copy or save it again.')
  _require_matrix(path, shape)
  array = np.frombuffer(content, dtype, offset=file.tell()).reshape(shape, order='F' if fortran_order else 'C')
  return array.view(jnp.bfloat16) if dtype == _BFLOAT16 else array


def _from_state(path: str) -> np.ndarray:
  arrays, _ = state.read_state(path)
  prompts = [name for name in arrays if _PROMPT.fullmatch(name)]
  if len(prompts) != 1:
    found = ', '.join(map(printable, sorted(arrays))) or 'nothing'
    raise ValueError(f'{path} holds {found}; expected one array whose name ends in prompt/prompt/prompt. Give '
                     'the prompt.safetensors of a run that tuned a prompt.')
  return arrays[prompts[0]]


def _checked(path: str, array: np.ndarray) -> np.ndarray:
  _require_floating(path, array.dtype)
  _require_matrix(path, array.shape)
  return np.ascontiguousarray(array, np.float32)


def _require_floating(path: str, dtype: np.dtype) -> None:
  if not np.issubdtype(dtype, np.floating) and dtype != jnp.bfloat16:
    raise ValueError(f'{path}: found type {dtype}, expected floating point. Save the prompt as float32.')


def _require_matrix(path: str, shape: tuple[int, ...]) -> None:
  if len(shape) != 2 or 0 in shape:
    raise ValueError(f'{path}: found shape {shape}, expected [prompt length, width]. '
                     'Save one vector for each prompt position.')
