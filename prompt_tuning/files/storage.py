"""Reads and writes files and folders atomically: they are either complete or absent.

Local files are written under a temporary name, synced and renamed. An object under `gs://` is uploaded as a whole
(`gcs`): the store shows either all of it or the previous object.
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

from prompt_tuning.files import gcs, local

_LOG = logging.getLogger(__name__)
_SCHEME = re.compile(r'\s*([A-Za-z][\w+.-]*):/+')


def is_remote(path: str) -> bool:
  """Returns True if `path` is an object store address."""
  return str(path).startswith('gs://')


def join(folder: str, *names: str) -> str:
  """Joins path segments, for local folders and `gs://` addresses alike."""
  return '/'.join([str(folder).rstrip('/'), *names]) if is_remote(folder) else os.path.join(folder, *names)


def exists(path: str) -> bool:
  """Returns True if there is a file or folder at `path`; for `gs://`, an object."""
  return gcs.exists(path) if is_remote(path) else os.path.exists(path)


def is_file(path: str) -> bool:
  """Returns True if there is a file or an object at `path`."""
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
  """Returns the sorted names of files and folders directly in a folder; none if it does not exist.

  Raises:
    OSError: it cannot be listed.
  """
  if not is_remote(path):
    return sorted(os.listdir(path)) if os.path.isdir(path) else []
  start = join(path, '')
  return sorted(address[len(start):].rstrip('/') for address in gcs.addresses(start) if address != start)


def check_address(path: str) -> None:
  """Refuses to write to other stores, and to what a shell would have replaced, such as ~ and $HOME.

  Raises:
    ValueError: a folder of such a name would be made; the message says what to write instead.
  """
  path = os.fspath(path)
  scheme, named = _SCHEME.match(path), path.removeprefix('gs://').strip('/')
  if (scheme and not is_remote(path)) or (is_remote(path) and (not named or path.startswith('gs:///'))):
    rest = path[scheme.end():]
    meant = {'gs': f'gs://{rest}', 'file': f'/{rest}'}.get(scheme[1].lower()) if rest else None
    raise ValueError(f'{path} cannot be written: only local paths and gs://BUCKET/NAME can. '
                     + (f'Did you mean {meant}?' if meant else 'Give one of these, and copy it afterwards.'))
  whole = os.path.expandvars(os.path.expanduser(path))
  if whole != path or re.match(r'~[^/]*/', path) or re.search(r'(^|/)\$', path):
    sign = '~' if path.startswith('~') else '$'
    raise ValueError(f'{path} cannot be written: {sign} was not replaced, as a shell does outside of quotes, and would '
                     f'be part of a name. {f"Write {whole}." if whole != path else "Write the whole path."}')


def make_folder(path: str) -> None:
  """Creates a folder and its parents; an object store needs none.

  Raises:
    ValueError: see `check_address`.
    OSError: it cannot be created or written.
  """
  check_address(path)
  if not is_remote(path):
    os.makedirs(path, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
      pass


def check_writable(folder: str) -> None:
  """Checks, without leaving anything, that files can be written into a folder, which need not exist yet.

  Raises:
    ValueError: see `check_address`.
    ImportError: a required package is missing.
    OSError: the folder cannot be written.
  """
  check_address(folder)
  if is_remote(folder):
    list_folder(folder)
    return
  parent = os.path.abspath(folder)
  while not os.path.exists(parent):
    parent = os.path.dirname(parent)
  try:
    with tempfile.TemporaryFile(dir=parent):
      pass
  except OSError as error:
    raise OSError(f'{folder} cannot be written: {parent} is not a folder that this user can write to '
                  f'({error.strerror}). Give another folder.') from error


def check_file(path: str) -> None:
  """Checks, without leaving anything, that a file can be written, which need not exist yet.

  Raises:
    ValueError, ImportError: see `check_writable`.
    OSError: it is a folder or a device, or its folder cannot be written.
  """
  check_address(path)
  if os.fspath(path).endswith('/') or os.path.isdir(path):
    raise OSError(f'{path} is a folder. Give a file in it, such as {join(path, "NAME")}.')
  local.require_replaceable(path)
  check_writable(os.path.dirname(path) or '.')


def remove_left(folder: str) -> None:
  """Removes what killed processes have left of unfinished files in a folder and below; a store holds none."""
  if not is_remote(folder):
    local.remove_left(folder)


def remove_tree(path: str) -> None:
  """Removes a folder and its content; files that cannot be removed stay."""
  if not is_remote(path):
    shutil.rmtree(path, ignore_errors=True)
    return
  try:
    for address in gcs.addresses(join(path, ''), delimiter=None):
      gcs.remove(address)
  except OSError as error:
    _LOG.warning('%s', error)


def write_bytes(path: str, content: bytes) -> None:
  """Writes a file so that it is either complete under its name or absent, even after a power loss.

  Raises:
    OSError: the disk is full or the folder cannot be written; an existing file is unchanged.
  """
  with whole_file(path) as temporary, open(temporary, 'wb') as file:
    file.write(content)


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[str]:
  """Yields the path of a temporary file that is renamed to `path` when the block ends without an error.

  A file that is replaced keeps its mode. Threads and processes may write the same file at once: the last one counts.

  Raises:
    ValueError: see `check_address`.
    OSError: the file cannot be written; an existing file is unchanged and no temporary file is left.
  """
  check_address(path)
  with _put_whole(path) if is_remote(path) else local.whole_file(path) as temporary:
    yield temporary


@contextlib.contextmanager
def _put_whole(path: str) -> Iterator[str]:
  gcs.require_account(path)  # fail now, not after the file is made
  with tempfile.TemporaryDirectory(prefix='prompt_tuning_') as folder:
    temporary = os.path.join(folder, os.path.basename(path))
    with local.explained(temporary):
      yield temporary
    gcs.put(temporary, path)


@contextlib.contextmanager
def whole_folder(path: str) -> Iterator[str]:
  """Yields a temporary folder that is renamed to `path` when the block ends without an error.

  Raises:
    ValueError: see `check_address`.
    FileExistsError: `path` already exists and is not empty, or another process has made it in the meantime.
    OSError: the folder cannot be written; nothing is left of it.
  """
  check_address(path)
  if is_remote(path):
    raise OSError(f'{path}: writing a whole folder to an object store is not supported. Give a local folder, and copy '
                  'it afterwards.')
  with local.whole_folder(path) as temporary:
    yield temporary


class GrowingFolder:
  """A folder with growing files. Objects in a store cannot grow: there, whole files are uploaded from time to time.

  The thread that uploads files may differ from the one that writes them.

  Args:
    folder: the destination of the files, including subfolders.

  Attributes:
    path: the local folder to write into: `folder` itself, or a temporary folder if `folder` is in an object store.
  """

  def __init__(self, folder: str):
    self._folder = folder
    self._temporary = tempfile.TemporaryDirectory(prefix='prompt_tuning_') if is_remote(folder) else None
    self.path = self._temporary.name if self._temporary else folder
    self._sizes: dict[str, int] = {}  # of the uploaded files
    self._lock = threading.Lock()  # older content must not overwrite newer
    _growing[join(folder, '')] = self

  def open(self, name: str) -> TextIO:
    """Opens a text file for appending to its existing content.

    Raises:
      OSError: it cannot be read or written.
    """
    path, there = os.path.join(self.path, name), join(self._folder, name)
    if self._temporary and exists(there):
      write_bytes(path, read_bytes(there))
      self._sizes[path] = os.path.getsize(path)
    with local.explained(path):
      return open(path, 'a', encoding='utf-8')

  def put(self) -> None:
    """Uploads the files that have grown since the last upload.

    Raises:
      OSError: the upload fails; earlier uploads stay.
    """
    with self._lock:
      for parent, _, names in os.walk(self.path) if self._temporary else ():
        for path in (os.path.join(parent, name) for name in names):
          if os.path.getsize(path) != self._sizes.get(path):
            content = read_bytes(path)
            write_bytes(join(self._folder, os.path.relpath(path, self.path)), content)
            self._sizes[path] = len(content)

  def close(self) -> None:
    """Uploads the rest."""
    try:
      self.put()
    finally:
      _growing.pop(join(self._folder, ''), None)
      if self._temporary:
        self._temporary.cleanup()


_growing: weakref.WeakValueDictionary[str, GrowingFolder] = weakref.WeakValueDictionary()


def put_grown(folder: str) -> None:
  """Uploads the grown files of a folder written by a `GrowingFolder`, so that they precede later writes.

  Raises:
    OSError: the upload fails.
  """
  growing = _growing.get(join(folder, ''))
  if growing is not None:
    growing.put()
