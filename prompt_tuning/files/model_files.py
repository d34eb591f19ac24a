"""The files of a model's folder, or those that a GGUF file stands for: `model.gguf/config.json` and its like."""

import functools
import json
import os
import re
from collections.abc import Callable

from prompt_tuning.files import gguf_config, gguf_tokenizer, json_files, storage
from prompt_tuning.files.gguf_file import SUFFIX, GgufFile, open_gguf

_INSIDE = re.compile(rf'(.+{re.escape(SUFFIX)})[/\\]+([^/\\]+)')
_TEMPLATE = 'tokenizer.chat_template'


def is_gguf(path: str) -> bool:
  """Returns True if `path` names a GGUF file, which need not exist."""
  return str(path).endswith(SUFFIX) and not os.path.isdir(path)


def exists(path: str) -> bool:
  """Returns True if there is a file or folder at `path`, or if a GGUF file stands for one."""
  inside = _inside(path)
  return storage.exists(path) if inside is None else inside[1] in _names(open_gguf(inside[0]))


def read_bytes(path: str) -> bytes:
  """Returns the content of a file, or of one that a GGUF file stands for.

  Raises:
    FileNotFoundError: there is nothing at `path`.
    ValueError: the GGUF file has something that is not supported.
    OSError: it cannot be read.
  """
  inside = _inside(path)
  if inside is None:
    return storage.read_bytes(path)
  found = os.stat(inside[0])
  return _content(*inside, found.st_mtime_ns, found.st_size)


def read_object(path: str, wanted: str = 'a JSON file') -> dict:
  """Returns the object of a JSON file; raises errors as `json_files.read_object` and `read_bytes` do."""
  if _inside(path) is None or not exists(path):
    return json_files.read_object(path, wanted)
  return json_files.parse_object(path, read_bytes(path), wanted)


@functools.lru_cache(maxsize=4)
def _content(path: str, name: str, *_: int) -> bytes:
  file = open_gguf(path)
  make = _names(file).get(name)
  if make is None:
    raise FileNotFoundError(f'{path} stands for no {name}. Give the file {name} itself.')
  return make(file)


def _names(file: GgufFile) -> dict[str, Callable[[GgufFile], bytes]]:
  """Returns the names of the files that a GGUF file stands for, and what makes their content."""
  found: dict[str, Callable[[GgufFile], bytes]] = {}
  if file.shapes():  # a file may hold a vocabulary alone
    found['config.json'] = lambda file: _json(gguf_config.config_of(file))
  kind = gguf_tokenizer.tokenizer_kind(file)
  if kind:
    found[kind] = gguf_tokenizer.tokenizer_model if kind.endswith('.model') else gguf_tokenizer.tokenizer_json
    found['tokenizer_config.json'] = lambda file: _json(gguf_tokenizer.tokenizer_config(file))
  if _TEMPLATE in file.values:
    found['chat_template.jinja'] = lambda file: str(file.values[_TEMPLATE]).encode()
  if gguf_config.end_ids(file):
    found['generation_config.json'] = lambda file: _json({'eos_token_id': list(gguf_config.end_ids(file))})
  return found


def _json(value: dict) -> bytes:
  return (json.dumps(value, indent=2, sort_keys=True) + '\n').encode()


def _inside(path: str) -> tuple[str, str] | None:
  found = _INSIDE.fullmatch(str(path))
  return (found[1], found[2]) if found and os.path.isfile(found[1]) else None
