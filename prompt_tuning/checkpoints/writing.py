"""Files and folders that are either there complete, or not there, with errors that say what failed.

`storage` does this for one file; here is the same for a folder, and one message for the ways in which
the libraries underneath report a full or unwritable disk.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator

from prompt_tuning import storage

# safetensors says "(os error 28)", tensorstore "[os_error_code='28']": neither raises an OSError.
_NUMBER = re.compile(r"os[_ ]error(?:_code=')?\s*(\d+)")


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[str]:
  """Gives the path of a temporary file that takes the name `path` when the block ends without an error.

  Raises:
    OSError: the file cannot be written; the old one, if any, is as it was and no temporary is left.
  """
  with _explained(path), storage.open_for_writing(path) as temporary:
    yield temporary


@contextlib.contextmanager
def whole_folder(path: str) -> Iterator[str]:
  """Gives a temporary folder that takes the name `path` when the block ends without an error.

  Raises:
    FileExistsError: `path` is there already and not empty.
    OSError: the folder cannot be written; nothing is left of it.
  """
  if storage.is_remote(path):
    raise OSError(f'{path}: writing to an object store is not supported yet. Give a local folder.')
  path = os.path.abspath(path)
  if os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
    raise FileExistsError(f'{path} exists already and is never overwritten. Remove it, or choose another name.')
  temporary = f'{path}.tmp-{os.getpid()}'
  with _explained(path):
    try:
      os.makedirs(temporary)
      yield temporary
      _sync_all(temporary)
      os.rename(temporary, path)
      _sync(os.path.dirname(path))
    except BaseException:
      shutil.rmtree(temporary, ignore_errors=True)
      raise


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
  try:
    yield
  except Exception as error:
    number = error.errno if isinstance(error, OSError) else _error_number(error)
    if number is None:
      raise
    raise OSError(number, f'{path} cannot be written: {os.strerror(number)}. What was there before is as it was. '
                          'Make room or choose another place.') from error


def _error_number(error: Exception) -> int | None:
  match = _NUMBER.search(str(error))
  return int(match.group(1)) if match else None


def _sync_all(folder: str) -> None:
  for parent, _, files in os.walk(folder):
    for name in files:
      _sync(os.path.join(parent, name))
    _sync(parent)


def _sync(path: str) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
