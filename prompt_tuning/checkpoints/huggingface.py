"""Folders of Hugging Face models: `config.json` and safetensors, in one file or in shards.

Safetensors files have no checksum: a missing or short file is detected, a flipped bit in an array is not.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from prompt_tuning.checkpoints import state
from prompt_tuning.files import storage
from prompt_tuning.files.json_files import Fields, read_fields, read_object
from prompt_tuning.names import nearest, printable
from prompt_tuning.types import Array, Flat

_CONFIG = 'config.json'
_SINGLE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
_SUFFIX = '.safetensors'
_WANTED = f'a Hugging Face folder with {_CONFIG} and {_SINGLE}'
_OLD_NAME = re.compile(r'LayerNorm\.(gamma|beta)$')
_PICKLES = ('.bin', '.pt', '.pth', '.ckpt')


class _Index(Fields):
  weight_map: dict[str, str] = {}  # noqa: RUF012 (copied by msgspec)


class HuggingFaceFolder:
  """Reads the arrays of a local folder, one by one.

  Attributes:
    path: the folder.
    config: the content of `config.json`.
  """

  def __init__(self, path: str):
    """Reads the configuration and the headers of the files.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged, or the arrays are pickled.
      OSError: the folder is not on this machine.
    """
    self.path = str(path)
    if storage.is_remote(self.path):
      raise OSError(f'{self.path}: Hugging Face folders are read only from a local disk. Copy the folder and give its '
                    'local path.')
    self.config = read_object(os.path.join(self.path, _CONFIG), _WANTED)
    weight_map = _read_weight_map(self.path, self.config)
    opened = {file: _open(os.path.join(self.path, file)) for file in sorted(set(weight_map.values())) or [_SINGLE]}
    files = {name: shard for shard in opened.values() for name in shard.keys()}
    for name, file in weight_map.items():
      if name not in opened[file].keys():
        raise ValueError(f'{os.path.join(self.path, file)} lacks the array {printable(name)}, which {_INDEX} lists '
                         'there. Download the folder again.')
      files[name] = opened[file]
    self._stored = {_current(name): name for name in files}
    self._files = {name: files[stored] for name, stored in self._stored.items()}

  def names(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns name -> shape and type, without reading the arrays."""
    headers = {name: opened.get_slice(self._stored[name]) for name, opened in self._files.items()}
    return {name: (tuple(header.get_shape()), state.numpy_dtype(self.path, name, header.get_dtype()))
            for name, header in headers.items()}

  def read(self, name: str, part: Any = ...) -> np.ndarray:
    """Returns one array, or a slice of each of its axes.

    Raises:
      KeyError: the folder has no such array.
      ValueError: it cannot be read.
    """
    if name not in self._files:
      raise KeyError(f'{self.path} has no array {name}.{nearest(name, self._files)}')
    file, stored = self._files[name], self._stored[name]
    try:
      return file.get_tensor(stored) if part is ... else file.get_slice(stored)[part]
    except safetensors.SafetensorError as error:
      raise ValueError(f'{self.path}: the array {name} cannot be read: {error}. Download the folder again.') from error

  def hide(self, name: str) -> None:
    """Leaves out an array, as if the folder did not have it."""
    del self._files[name], self._stored[name]


def write_huggingface(folder: str, config: Mapping[str, Any], named: Mapping[str, Array], *,
                      shard_bytes: int = 2 * 10**9) -> None:
  """Writes a folder that transformers loads: one safetensors file, or shards of at most `shard_bytes` and an index.

  Args:
    folder: a local folder that does not exist or is empty.
    config: the content of `config.json`.
    named: name -> array.
    shard_bytes: maximum bytes of a shard; a larger array gets a separate shard.

  Raises:
    FileExistsError: the folder is not empty.
    OSError: it cannot be written; nothing is left of it.
  """
  shards = list(_split(named, shard_bytes))
  files = [_SINGLE] if len(shards) == 1 else [
    f'model-{i + 1:05d}-of-{len(shards):05d}.safetensors' for i in range(len(shards))]
  with storage.whole_folder(folder) as temporary:
    for file, names in zip(files, shards, strict=True):
      write_arrays(os.path.join(temporary, file), {name: state.dense(folder, name, named[name]) for name in names})
    if len(shards) > 1:
      write_json(os.path.join(temporary, _INDEX), {
        'metadata': {'total_size': sum(_size(array) for array in named.values())},
        'weight_map': {name: file for file, names in zip(files, shards, strict=True) for name in names}})
    write_json(os.path.join(temporary, _CONFIG), config)


def read_arrays(path: str) -> Flat:
  """Returns all arrays of one safetensors file.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file is damaged, or a number is not finite.
  """
  opened = _open(path)
  try:
    arrays = {name: opened.get_tensor(name) for name in opened.keys()}
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path}: an array cannot be read: {error}. Download it again.') from error
  for name, array in arrays.items():
    state.require_finite(path, name, array)
  return arrays


def write_arrays(path: str, named: Mapping[str, np.ndarray]) -> None:
  """Writes arrays, which must come from `state.dense`, into one safetensors file that PyTorch programs can load."""
  # transformers rejects a file whose metadata does not name the framework.
  safetensors.numpy.save_file(dict(named), path, metadata={'format': 'pt'})


def write_json(path: str, value: Mapping[str, Any]) -> None:
  """Writes a JSON object as transformers does: indented by two spaces, keys sorted."""
  with open(path, 'w', encoding='utf-8') as file:
    file.write(json.dumps(value, indent=2, sort_keys=True) + '\n')


def _current(name: str) -> str:
  """Returns the name of an array that was named as in TensorFlow."""
  return _OLD_NAME.sub(lambda found: f'LayerNorm.{"weight" if found[1] == "gamma" else "bias"}', name)


def _read_weight_map(folder: str, config: Mapping[str, Any]) -> dict[str, str]:
  """Returns name -> shard, or {} if all arrays are in one file."""
  path = os.path.join(folder, _INDEX)
  if os.path.exists(os.path.join(folder, _SINGLE)):
    return {}
  if os.path.exists(path):
    weight_map = read_fields(path, _Index, 'the index of a Hugging Face folder').weight_map
    if not weight_map or not all(os.path.basename(file) == file and file.endswith(_SUFFIX)
                                 for file in weight_map.values()):
      raise ValueError(f'{path} has no "weight_map" from array names to files in this folder. Download it again.')
    return weight_map
  pickles = sorted(name for name in os.listdir(folder) if name.endswith(_PICKLES))
  if pickles:
    raise ValueError(
      f'{folder} holds its arrays as {", ".join(pickles)}: Python pickles, which are never loaded because loading runs '
      f'code. Expected {_SINGLE} or {_INDEX}. If you trust them, convert them: {_conversion(folder, config)}, or '
      'download the safetensors revision.')
  raise FileNotFoundError(f'{folder} holds neither {_SINGLE} nor {_INDEX}. Download the files of the model.')


def _conversion(folder: str, config: Mapping[str, Any]) -> str:
  """Returns the command that writes a folder's arrays, and its tokenizer if it has one, to a new folder."""
  kind, architecture = str(config.get('model_type')), str(next(iter(config.get('architectures') or ()), ''))
  headed = re.search('For(SequenceClassification|MaskedLM)$', architecture)
  if headed:
    auto = f'AutoModelFor{headed[1]}'
  elif 'bert' in kind:
    auto = 'AutoModel'
  else:
    auto = 'AutoModelForSeq2SeqLM' if 't5' in kind else 'AutoModelForCausalLM'
  names, new = [f'{auto} as M'], f'{os.path.normpath(folder)}-safetensors'
  steps = [f'M.from_pretrained({folder!r}).save_pretrained({new!r})']
  if any(re.match(r'tokenizer|.*\.model$|vocab\.|merges\.', name) for name in os.listdir(folder)):
    names.append('AutoTokenizer as T')
    steps.append(f'T.from_pretrained({folder!r}).save_pretrained({new!r})')
  return f'python -c "from transformers import {", ".join(names)}; {"; ".join(steps)}"'


def _open(path: str) -> Any:
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{path} does not exist, but {_INDEX} lists it. Download it.')
  try:
    # Memory-mapped files would count as resident memory.
    return safetensors.safe_open(path, framework='numpy', backend='pread')
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is truncated or not a safetensors file ({error}). Download it again.') from error


def _split(named: Flat, shard_bytes: int) -> Iterator[list[str]]:
  """Yields the names of each shard."""
  shard, size = [], 0
  for name, array in named.items():
    if shard and size + _size(array) > shard_bytes:
      yield shard
      shard, size = [], 0
    shard.append(name)
    size += _size(array)
  yield shard


def _size(array: Array) -> int:
  return array.size * array.dtype.itemsize
