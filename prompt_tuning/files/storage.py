"""Reads and writes whole files and folders: they are either there complete, or not there.

Local paths are written as temporary, synced and renamed. An object under `gs://` is put whole (`gcs`): a store shows
all of it or what was there before.
"""

import contextlib
import logging
import os
import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import TextIO

from prompt_tuning.files import gcs

_LOG = logging.getLogger(__name__)
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
  return gcs.exists(path) if is_remote(path) else os.path.exists(path)


def is_file(path: str) -> bool:
  """Says whether there is a file or an object at `path`."""
  return exists(path) if is_remote(path) else os.path.isfile(path)


def read_bytes(path: str) -> bytes:
  """Returns the whole content of a local file or a `gs://` object.

  Raises:
    FileNotFoundError: there is nothing at `path`.
    OSError: it cannot be read.
  """
  if is_remote(path):
    return gcs.read(path)
  with open(path, 'rb') as file:
    return file.read()


def list_folder(path: str) -> list[str]:
  """Returns the names of what stands directly in a folder, sorted; of none where it is not there.

  Raises:
    OSError: it cannot be listed.
  """
  if not is_remote(path):
    return sorted(os.listdir(path)) if os.path.isdir(path) else []
  start = join(path, '')
  return sorted(address[len(start):].rstrip('/') for address in gcs.addresses(start) if address != start)


def make_folder(path: str) -> None:
  """Makes a folder and those above it; an object store needs none.

  Raises:
    OSError: it cannot be made, or not written.
  """
  if not is_remote(path):
    os.makedirs(path, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
      pass


def check_writable(folder: str) -> None:
  """Sees to it, as far as that can be told without writing, that files can be written into a folder, made or not.

  Raises:
    ImportError: a package is missing for it.
    OSError: they cannot be.
  """
  if is_remote(folder):
    list_folder(folder)
    return
  parent = os.path.abspath(folder)
  while not os.path.exists(parent):
    parent = os.path.dirname(parent)
  if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
    raise OSError(f'{folder} cannot be written: {parent} is no folder that this user may write. '
                  'Give another folder.')


def remove_tree(path: str) -> None:
  """Removes a folder and all in it; what cannot be removed stays."""
  if not is_remote(path):
    shutil.rmtree(path, ignore_errors=True)
    return
  try:
    for address in gcs.addresses(join(path, ''), delimiter=None):
      gcs.remove(address)
  except OSError as error:
    _LOG.warning('%s', error)


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
  with _put_whole(path) if is_remote(path) else _renamed_whole(path) as temporary:
    yield temporary


@contextlib.contextmanager
def _renamed_whole(path: str) -> Iterator[str]:
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
def _put_whole(path: str) -> Iterator[str]:
  gcs.require_account(path)  # rather missed now than when the file is made
  with tempfile.TemporaryDirectory(prefix='prompt_tuning_') as folder:
    temporary = os.path.join(folder, os.path.basename(path))
    with _explained(temporary):
      yield temporary
    gcs.put(temporary, path)


@contextlib.contextmanager
def whole_folder(path: str) -> Iterator[str]:
  """Gives a temporary folder that takes the name `path` when the block ends without an error.

  Raises:
    FileExistsError: `path` is there already and not empty.
    OSError: the folder cannot be written; nothing is left of it.
  """
  if is_remote(path):
    raise OSError(f'{path}: writing a folder that must be whole to an object store is not supported. Give a local '
                  'folder, and copy it afterwards.')
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


class GrowingFolder:
  """A folder with files that grow. Nothing grows in an object store: there they are put whole, from time to time.

  They may be put by another thread than the one that writes them.

  Args:
    folder: where they shall be, also below it.

  Attributes:
    path: the local folder to write into: the same one, or a temporary one in place of an object store.
  """

  def __init__(self, folder: str):
    self._folder = folder
    self._temporary = tempfile.TemporaryDirectory(prefix='prompt_tuning_') if is_remote(folder) else None
    self.path = self._temporary.name if self._temporary else folder
    self._sizes: dict[str, int] = {}  # of what was put
    self._lock = threading.Lock()  # an older content shall not come behind a newer one
    _growing[join(folder, '')] = self

  def open(self, name: str) -> TextIO:
    """Opens a file of text for appending to what is there of it.

    Raises:
      OSError: it cannot be read or written.
    """
    path, there = os.path.join(self.path, name), join(self._folder, name)
    if self._temporary and exists(there):
      write_bytes(path, read_bytes(there))
      self._sizes[path] = os.path.getsize(path)
    return open(path, 'a', encoding='utf-8')

  def put(self) -> None:
    """Puts what has grown since it was last put.

    Raises:
      OSError: it cannot be; what was put before is there.
    """
    with self._lock:
      for parent, _, names in os.walk(self.path) if self._temporary else ():
        for path in (os.path.join(parent, name) for name in names):
          if os.path.getsize(path) != self._sizes.get(path):
            content = read_bytes(path)
            write_bytes(join(self._folder, os.path.relpath(path, self.path)), content)
            self._sizes[path] = len(content)

  def close(self) -> None:
    """Puts the rest."""
    try:
      self.put()
    finally:
      _growing.pop(join(self._folder, ''), None)
      if self._temporary:
        self._temporary.cleanup()


_growing: weakref.WeakValueDictionary[str, GrowingFolder] = weakref.WeakValueDictionary()


def put_grown(folder: str) -> None:
  """Puts what has grown in a folder that a `GrowingFolder` writes, so that it is there before what is written next.

  Raises:
    OSError: it cannot be put.
  """
  growing = _growing.get(join(folder, ''))
  if growing is not None:
    growing.put()


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
