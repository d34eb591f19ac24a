"""Reads and writes whole files: a file is either there complete, or not there.

Local paths are written as temporary, synced and renamed. `gs://` objects are read anonymously over HTTPS.
"""

import contextlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator

_TEMPORARY = '.tmp'


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
  with open_for_writing(path) as temporary, open(temporary, 'wb') as file:
    file.write(content)


@contextlib.contextmanager
def open_for_writing(path: str) -> Iterator[str]:
  """Gives the path of a temporary file that takes the name `path` when the block ends without an error."""
  if is_remote(path):
    raise OSError(f'{path}: writing to an object store is not supported yet. Give a local folder.')
  folder = os.path.dirname(os.path.abspath(path))
  os.makedirs(folder, exist_ok=True)
  temporary = f'{path}{_TEMPORARY}-{os.getpid()}'
  try:
    yield temporary
    _sync(temporary)
    os.replace(temporary, path)
    _sync(folder)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.remove(temporary)
    raise


def _sync(path: str) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


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
