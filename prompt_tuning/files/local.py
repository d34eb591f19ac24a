"""Local files and folders that are written whole: under a temporary name, then synced and renamed.

A temporary name is `NAME.tmp-HOST-PROCESS-RANDOM`. Nobody can guess it, and it is never opened if something has that
name already. What a killed process has left is recognised by it, and removed.
"""

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator

from prompt_tuning.devices import hosts

_LOG = logging.getLogger(__name__)
# Earlier versions wrote `NAME.tmp-PROCESS`.
_TEMPORARY = re.compile(r'.+\.tmp-(?:([0-9a-f]{8})-)?(\d+)(?:-[0-9a-f]{16})?', re.DOTALL)
_NAME_LENGTH = 50  # characters of the final name in a temporary one, so that it does not exceed the system's limit
_ABANDONED = 24 * 3600.0  # seconds after which a temporary of another host counts as left behind
# safetensors reports "(os error 28)", tensorstore "[os_error_code='28']"; neither raises an OSError.
_NUMBER = re.compile(r"os[_ ]error(?:_code=')?\s*(\d+)")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # which ArrayRecord reports as text
_WRITING: set[str] = set()  # the temporaries of this process


def require_replaceable(path: str) -> None:
  """Raises OSError if there is something at `path` that has no content to replace, such as /dev/stdout."""
  streams = ('/dev/std', '/dev/fd/', '/proc/')  # links, perhaps to files
  if os.path.abspath(path).startswith(streams) or (os.path.exists(path) and not os.path.isfile(path)):
    raise OSError(f'{path} is not a file, and is left as it is. Give the name of a file.')


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[str]:
  """Yields the path of an empty file that is renamed to `path` when the block ends without an error.

  A file that is replaced keeps its mode.

  Raises:
    OSError: the file cannot be written; an existing file is unchanged and no temporary file is left.
  """
  require_replaceable(path)
  folder = os.path.dirname(os.path.abspath(path))
  with explained(path, temporary := _temporary(path)):
    try:
      os.makedirs(folder, exist_ok=True)
      _remove_left(folder, _start(path))
      descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
      mode = os.fstat(descriptor).st_mode  # as this user's files have it; safetensors sets another one
      os.close(descriptor)
      with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode if not os.path.islink(path) else mode
      yield temporary
      os.chmod(temporary, mode & 0o7777)
      sync(temporary)
      os.replace(temporary, path)
      sync(folder)
    except BaseException:
      with contextlib.suppress(OSError):
        os.remove(temporary)
      raise
    finally:
      _WRITING.discard(temporary)


@contextlib.contextmanager
def whole_folder(path: str) -> Iterator[str]:
  """Yields an empty folder that is renamed to `path` when the block ends without an error.

  Raises:
    FileExistsError: `path` already exists and is not empty, or another process has made it in the meantime.
    OSError: the folder cannot be written; nothing is left of it.
  """
  path = os.path.abspath(path)
  taken = FileExistsError(f'{path} already exists and is never overwritten. Remove it, or choose another name.')
  if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
    raise taken
  with explained(path, temporary := _temporary(path)):
    try:
      os.makedirs(os.path.dirname(path), exist_ok=True)
      _remove_left(os.path.dirname(path), _start(path))
      os.mkdir(temporary)
      yield temporary
      _sync_all(temporary)
      try:
        os.rename(temporary, path)
      except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
          raise taken from error
        raise
      sync(os.path.dirname(path))
    except BaseException:
      shutil.rmtree(temporary, ignore_errors=True)
      raise
    finally:
      _WRITING.discard(temporary)


def remove_left(folder: str) -> None:
  """Removes what killed processes have left of unfinished files in a folder and its subfolders."""
  for parent, _, _ in os.walk(folder):
    _remove_left(parent)


@contextlib.contextmanager
def explained(path: str, temporary: str | None = None) -> Iterator[None]:
  """Adds the path and what to do to errors of writing `path`, also by way of `temporary`.

  Errors of other files, such as those that are read meanwhile, are unchanged.
  """
  try:
    yield
  except Exception as error:
    number = error.errno if isinstance(error, OSError) else _error_number(error)
    if number is None or _of_another(error, path, temporary):
      raise
    raise OSError(number, f'{path} cannot be written: {os.strerror(number)}. Existing content is unchanged. '
                          'Free some space or choose another location.') from error


def sync(path: str) -> None:
  """Waits until a file or folder is on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _start(path: str) -> str:
  return f'{os.path.basename(path)[:_NAME_LENGTH]}.tmp-'


def _host() -> str:
  return f'{zlib.crc32(hosts.name().encode()):08x}'


def _temporary(path: str) -> str:
  """Returns a name next to `path` that nothing else has, and notes that this process writes it."""
  name = f'{_start(path)}{_host()}-{os.getpid()}-{secrets.token_hex(8)}'
  temporary = os.path.join(os.path.dirname(os.path.abspath(path)), name)
  _WRITING.add(temporary)
  return temporary


def _remove_left(folder: str, start: str = '') -> None:
  for entry in os.scandir(folder):
    found = _TEMPORARY.fullmatch(entry.name) if entry.name.startswith(start) else None
    if found and _is_left(entry, *found.groups()):
      _LOG.warning('Removing %s, which a killed process has left.', entry.path)
      with contextlib.suppress(OSError):
        shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.remove(entry.path)


def _is_left(entry: os.DirEntry, host: str | None, process: str) -> bool:
  if host is None and entry.is_dir(follow_symlinks=False):
    return False  # earlier versions made no folders in a run; those of other tools look the same
  if host not in (None, _host()):
    with contextlib.suppress(OSError):
      return time.time() - _newest(entry.path) > _ABANDONED
    return False
  if int(process) == os.getpid():  # a process before this one may have had its number
    return os.path.abspath(entry.path) not in _WRITING
  return hosts.started(int(process)) is None


def _newest(path: str) -> float:
  """Returns when something was last written to a file, or into a folder."""
  inside = [os.path.join(parent, name) for parent, _, names in os.walk(path) for name in names]
  return max(os.lstat(each).st_mtime for each in [path, *inside])


def _of_another(error: Exception, path: str, temporary: str | None) -> bool:
  name = getattr(error, 'filename', None)
  if not isinstance(name, str):
    return False
  mine, name = os.path.abspath(path), os.path.abspath(name)
  return not (mine.startswith(name) or name.startswith((mine, temporary or mine)))


def _error_number(error: Exception) -> int | None:
  if match := _NUMBER.search(str(error)):
    return int(match.group(1))
  return next((number for number in _DISK_ERRORS if os.strerror(number) in str(error)), None)


def _sync_all(folder: str) -> None:
  mode = os.stat(folder).st_mode & 0o666  # as this user's files have it; safetensors sets another one
  for parent, _, files in os.walk(folder):
    for name in files:
      os.chmod(os.path.join(parent, name), mode)
      sync(os.path.join(parent, name))
    sync(parent)
