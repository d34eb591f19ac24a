"""Reads and writes whole files and folders: they are either there complete, or not there.

Local paths are written as temporary, synced and renamed. `gs://` objects are read anonymously over HTTPS.
"""

import contextlib
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator

# safetensors says "(os error 28)", tensorstore "[os_error_code='28']": neither raises an OSError.
_NUMBER = re.compile(r"os[_ ]error(?:_code=')?\s*(\d+)")


def is_remote(path: str) -> bool:
  """Says whether `path` is an object store's address."""
  return str(path).startswith('gs://')


def join(folder: str, *names: str) -> str:
  """Joins path segments, for local folders and `gs://` addresses alike."""
  return '/'.join([str(folder).rstrip('/'), *names]) if is_remote(folder) else os.path.join(folder, *names)


def exists(path: str) -> bool:
  """Says whether there is a file or folder at `path`; for `gs://`, an object."""
  if not is_remote(path):
    return os.path.exists(path)
  try:
    with _open_remote(path, method='HEAD'):
      return True
  except FileNotFoundError:
    return False


def read_bytes(path: str) -> bytes:
  """Returns the whole content of a local file or a public `gs://` object.

  Raises:
    FileNotFoundError: there is nothing at `path`.
    OSError: it cannot be read.
  """
  if is_remote(path):
    with _open_remote(path) as response:
      return response.read()
  with open(path, 'rb') as file:
    return file.read()


def write_bytes(path: str, content: bytes) -> None:
  """Writes a file so that it is either complete under its name or absent, also after a power loss.

  Raises:
    OSError: the disk is full or the folder cannot be written; the old file, if any, is as it was.
  """
  with whole_file(path) as temporary, open(temporary, 'wb') as file:
    file.write(content)


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[str]:
  """Gives the path of a temporary file that takes the name `path` when the block ends without an error.

  Raises:
    OSError: the file cannot be written; the old one, if any, is as it was and no temporary is left.
  """
  _require_local(path)
  folder = os.path.dirname(os.path.abspath(path))
  temporary = f'{path}.tmp-{os.getpid()}'
  with _explained(path):
    try:
      os.makedirs(folder, exist_ok=True)
      yield temporary
      os.chmod(temporary, 0o666 & ~_umask())  # safetensors makes files that only their owner may read
      _sync(temporary)
      os.replace(temporary, path)
      _sync(folder)
    except BaseException:
      with contextlib.suppress(FileNotFoundError):
        os.remove(temporary)
      raise


@contextlib.contextmanager
def whole_folder(path: str) -> Iterator[str]:
  """Gives a temporary folder that takes the name `path` when the block ends without an error.

  Raises:
    FileExistsError: `path` is there already and not empty.
    OSError: the folder cannot be written; nothing is left of it.
  """
  _require_local(path)
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
      os.chmod(os.path.join(parent, name), 0o666 & ~_umask())
      _sync(os.path.join(parent, name))
    _sync(parent)


def _sync(path: str) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask


def _require_local(path: str) -> None:
  if is_remote(path):
    raise OSError(f'{path}: writing to an object store is not supported yet. Give a local folder.')


def _open_remote(path: str, method: str = 'GET'):
  # STORAGE_EMULATOR_HOST is the variable that Google's own clients read.
  host = os.environ.get('STORAGE_EMULATOR_HOST', 'https://storage.googleapis.com').rstrip('/')
  address = f'{host}/{path.removeprefix("gs://")}'
  try:
    return urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=60)
  except urllib.error.HTTPError as error:
    if error.code == 404:
      raise FileNotFoundError(f'{path}: there is no such object.') from error
    raise OSError(f'{path}: the object store answered {error.code} {error.reason}. '
                  'Only objects that anyone may read are supported; else copy it and give the local path.') from error
  except urllib.error.URLError as error:
    raise OSError(f'{path}: the object store cannot be reached ({error.reason}). '
                  'Copy the object and give its local path.') from error
