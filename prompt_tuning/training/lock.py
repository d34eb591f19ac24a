"""One folder, one process: a file in a run's folder names the process that writes there.

A local file is also locked by the system, so that a killed process holds nothing. Elsewhere, and between hosts, the
file is renewed every minute; a lock that was not renewed for five minutes is taken over.
"""

import contextlib
import fcntl
import functools
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prompt_tuning.devices import hosts, multihost
from prompt_tuning.files import gcs, local, storage
from prompt_tuning.training import run_files

NAME = 'lock.json'
STALE = 300.0  # seconds without renewal after which a lock of another host is taken over
_RENEWED = 60.0  # seconds from one renewal to the next
_LOOK = 5.0  # seconds between looks at a lock of another host
_LOG = logging.getLogger(__name__)
_HELD = threading.local()


@contextlib.contextmanager
def held(folder: str) -> Iterator[None]:
  """Holds the lock of a run's folder, which is made if needed. The main host holds it for all.

  Raises:
    OSError: another process or thread holds it, the folder cannot be written, or it was removed while it was held.
  """
  locks = _locks()
  if not multihost.is_main() or folder in locks:
    yield
    return
  new = not storage.is_remote(folder) and not os.path.exists(folder)
  run_files.prepare(folder)
  lock = locks[folder] = _Lock(folder)
  try:
    with lock:
      yield
      lock.check()
  finally:
    del locks[folder]
    if new:
      with contextlib.suppress(OSError):
        os.rmdir(folder)  # if nothing was written


def holding(function: Callable[..., Any]) -> Callable[..., Any]:
  """Decorates a function so that it holds the lock of its argument `model_dir`."""
  @functools.wraps(function)
  def locked(*, model_dir: str, **arguments: Any) -> Any:
    with held(model_dir):
      return function(model_dir=model_dir, **arguments)
  return locked


def check(folder: str) -> None:
  """Raises OSError if this thread has lost the lock of a folder, or if the folder was removed."""
  if folder in _locks():
    _locks()[folder].check()


def _locks() -> dict[str, '_Lock']:
  return _HELD.__dict__.setdefault('locks', {})


class _Lock:
  """A context that holds the lock of a folder."""

  def __init__(self, folder: str):
    self._folder, self.path = folder, storage.join(folder, NAME)
    self._file = (_Object if storage.is_remote(folder) else _File)(self.path)
    self._owner = {'host': hosts.name(), 'process': os.getpid(), 'started': hosts.started(os.getpid()),
                   'token': secrets.token_hex(8), 'since': time.strftime('%Y-%m-%d %H:%M:%S %z')}
    self._ended, self._lost = threading.Event(), False
    self._thread = threading.Thread(target=self._renew, name='lock', daemon=True)

  def __enter__(self) -> None:
    try:
      while not self._file.write(self._content(), new=self._wait()):
        pass  # another process was faster
    except BaseException:
      self._file.close()
      raise
    self._thread.start()

  def _wait(self) -> bool:
    """Waits until the lock is free; returns True if there is no former lock to replace."""
    began, first = time.monotonic(), None
    while True:
      alone, content = self._file.claim(), self._file.read()
      owner = _parse(content or b'')
      if alone is False:
        raise self._in_use(owner)
      if owner is None:
        return content is None
      who = f'process {owner["process"]} on {_host(owner)}'
      if owner['host'] == hosts.name():
        if alone is None and _runs(owner):
          raise self._in_use(owner)
        _LOG.warning('%s: took over the lock of %s, which no longer runs.', self._folder, who)
        return False
      age = time.time() - owner['renewed']
      if first is not None and owner['token'] == first['token'] and owner['renewed'] != first['renewed']:
        raise self._in_use(owner)
      if age > STALE or time.monotonic() - began > STALE:
        _LOG.warning('%s: took over the lock of %s, which was not renewed for %d s.', self._folder, who, age)
        return False
      if first is None:
        _LOG.warning('%s is locked by %s. Waiting until it renews the lock, or for %d s. If it no longer runs, delete '
                     '%s.', self._folder, who, STALE, self.path)
      first = first or owner
      time.sleep(_LOOK)

  def check(self) -> None:
    """Raises OSError if the lock is lost."""
    if self._lost or (not storage.is_remote(self.path) and not self._file.is_of(self._owner)):
      raise OSError(
        f'model_dir={self._folder} is no longer the folder of this run: its {NAME} was removed, or another process has '
        'taken it over. Nothing more is written. Start the run again, in this folder or in another one.')

  def __exit__(self, *_: object) -> None:
    self._ended.set()
    self._thread.join()
    try:
      if self._file.is_of(self._owner):
        self._file.remove()
    except OSError as error:
      _LOG.warning('%s', error)
    finally:
      self._file.close()

  def _renew(self) -> None:
    while not self._lost and not self._ended.wait(_RENEWED):
      with contextlib.suppress(OSError):  # the store cannot be reached at the moment
        self._lost = not self._file.is_of(self._owner)
        if not self._lost:
          self._file.write(self._content(), new=False)

  def _content(self) -> bytes:
    return json.dumps({**self._owner, 'renewed': time.time()}).encode()

  def _in_use(self, owner: Mapping[str, Any] | None) -> OSError:
    who = 'another process' if owner is None else (
      f'process {owner["process"]} on {_host(owner)}, since {owner["since"]}')
    return OSError(f'model_dir={self._folder} is in use by {who}. A folder holds one run: wait until it ends, end it, '
                   'or give another folder.')


class _File:
  """A local lock file."""

  def __init__(self, path: str):
    self._path, self._descriptor = path, None

  def claim(self) -> bool | None:
    """Returns True if no process of this host holds the file, False if one does, None if the system cannot tell."""
    while True:
      self.close()
      with local.explained(self._path):
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
      try:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        return False
      except OSError:
        return None
      if self._is_there():  # its last owner may have removed it meanwhile
        return True

  def read(self) -> bytes:
    return os.pread(self._descriptor, 1 << 16, 0)

  def write(self, content: bytes, *, new: bool) -> bool:
    del new
    with local.explained(self._path):
      os.pwrite(self._descriptor, content, 0)
      os.ftruncate(self._descriptor, len(content))
    return True

  def is_of(self, owner: Mapping[str, Any]) -> bool:
    del owner
    return self._is_there()

  def remove(self) -> None:
    os.remove(self._path)

  def close(self) -> None:
    if self._descriptor is not None:
      os.close(self._descriptor)
      self._descriptor = None

  def _is_there(self) -> bool:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
      return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
    return False


class _Object:
  """A lock file in an object store."""

  def __init__(self, path: str):
    self._path = path

  def claim(self) -> None:
    return None

  def read(self) -> bytes | None:
    try:
      return storage.read_bytes(self._path)
    except FileNotFoundError:
      return None

  def write(self, content: bytes, *, new: bool) -> bool:
    if new:
      return gcs.create(self._path, content)
    storage.write_bytes(self._path, content)
    return True

  def is_of(self, owner: Mapping[str, Any]) -> bool:
    found = _parse(self.read() or b'')
    return found is not None and found['token'] == owner['token']

  def remove(self) -> None:
    gcs.remove(self._path)

  def close(self) -> None:
    pass


def _parse(content: bytes) -> dict[str, Any] | None:
  """Returns the owner that a lock file names; None if it is empty or damaged."""
  with contextlib.suppress(ValueError, RecursionError):
    found = json.loads(content)
    if isinstance(found, dict) and isinstance(found.get('process'), int) and isinstance(found.get('renewed'), float):
      return {'host': '', 'started': '', 'token': '', 'since': '', **found}
  return None


def _host(owner: Mapping[str, Any]) -> str:
  return str(owner['host']).split(' ')[0]


def _runs(owner: Mapping[str, Any]) -> bool:
  started = hosts.started(owner['process'])
  return started is not None and (not started or not owner['started'] or started == owner['started'])
