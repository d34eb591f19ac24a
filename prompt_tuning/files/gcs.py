"""Google Cloud Storage objects, at addresses `gs://bucket/name`. Objects are written atomically.

gcsfs writes them, and handles accounts and retries; public objects are read without it.
"""

import contextlib
import functools
import http.client
import importlib.util
import logging
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any


def exists(path: str) -> bool:
  """Returns True if there is an object at `path`.

  Raises:
    OSError: the request to the store fails.
  """
  try:
    _read_public(path, 'HEAD')
    return True
  except FileNotFoundError:
    return False
  except ConnectionError:
    raise
  except OSError:
    if not importlib.util.find_spec('gcsfs'):
      raise
  return path in addresses(path)


def read(path: str) -> bytes:
  """Returns the content of an object.

  Raises:
    FileNotFoundError: there is no such object.
    OSError: it cannot be read.
  """
  try:
    return _read_public(path)
  except (FileNotFoundError, ConnectionError):
    raise  # an account would not help
  except OSError:  # not public, or a transient failure
    if not importlib.util.find_spec('gcsfs'):
      raise
  with _answered(path, 'read'):
    return _store(path).cat_file(path)


def put(file: str, path: str) -> None:
  """Uploads a local file as an object.

  Raises:
    ImportError: gcsfs is not installed.
    OSError: the object cannot be written; an existing object is unchanged.
  """
  with _answered(path, 'written'):
    # Otherwise caches may serve an older object of a public bucket for an hour.
    _store(path).put_file(file, path, fixed_key_metadata={'cache_control': 'no-store'})


def create(path: str, content: bytes) -> bool:
  """Writes an object if there is none at `path`; returns False if there is one. Of several processes, one succeeds.

  Raises:
    ImportError: gcsfs is not installed.
    OSError: the object cannot be written.
  """
  with _answered(path, 'written'):
    try:
      _store(path).pipe_file(path, content, mode='create', fixed_key_metadata={'cache_control': 'no-store'})
    except FileExistsError:
      return False
  return True


def remove(path: str) -> None:
  """Removes an object.

  Raises:
    OSError: it cannot be removed.
  """
  with _answered(path, 'removed'):
    _store(path).rm_file(path)


def require_account(path: str) -> None:
  """Checks that objects can be written and listed with an account.

  Raises:
    ImportError: gcsfs is not installed.
  """
  _store(path)


def addresses(start: str, delimiter: str | None = '/') -> list[str]:
  """Returns the addresses of all objects that begin with `start`; those with a later delimiter are cut after it.

  Raises:
    OSError: the objects cannot be listed.
  """
  bucket, _, prefix = start.removeprefix('gs://').partition('/')
  names, page = [], ''
  with _answered(start, 'listed'):
    while page is not None:
      found = _store(start).call('GET', 'b/{}/o', bucket, prefix=prefix, delimiter=delimiter, pageToken=page or None,
                                 json_out=True)
      names += [item['name'] for item in found.get('items', ())] + found.get('prefixes', [])
      page = found.get('nextPageToken')
  return [f'gs://{bucket}/{name}' for name in names]


def _read_public(path: str, method: str = 'GET') -> bytes:
  """Returns the content of a public object."""
  bucket, _, name = path.removeprefix('gs://').partition('/')
  address = f'{_emulator() or "https://storage.googleapis.com"}/{bucket}/{urllib.parse.quote(name)}'
  try:
    with urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=60) as response:
      return response.read()
  except urllib.error.HTTPError as error:
    if error.code == 404:
      raise FileNotFoundError(f'{path}: there is no such object. Check the path.') from error
    raise OSError(f'{path}: the object store answered {error.code} {error.reason}. '
                  'Without gcsfs only public objects can be read: '
                  "`pip install '.[gcs]'`, or copy the object and give its local path.") from error
  except (OSError, http.client.HTTPException) as error:
    raise ConnectionError(f'{path}: the object store cannot be reached ({getattr(error, "reason", error)}). '
                          'Copy the object and give its local path.') from error


def _emulator() -> str | None:
  host = os.environ.get('STORAGE_EMULATOR_HOST')  # the variable that Google's clients read
  return host and (host if '://' in host else f'http://{host}').rstrip('/')


def _store(path: str) -> Any:
  """Returns the client that reads, writes and lists objects with this machine's account.

  Raises:
    ImportError: gcsfs is not installed.
  """
  try:
    return _connect(_emulator())
  except ImportError as error:
    raise ImportError(f'{path}: writing to gs://, and reading objects that are not public, needs gcsfs: '
                      "`pip install '.[gcs]'`.") from error


@functools.cache
def _connect(emulator: str | None) -> Any:
  import aiohttp
  from gcsfs.core import GCSFileSystem

  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it also raises every error that it logs
  return GCSFileSystem(
    token='anon' if emulator else None, endpoint_url=emulator, use_listings_cache=False, skip_instance_cache=True,
    requests_timeout=aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60))


@contextlib.contextmanager
def _answered(path: str, done: str) -> Iterator[None]:
  """Turns errors of the store into messages with the path, the cause and what to do."""
  try:
    yield
  except ImportError:
    raise
  except Exception as error:  # from gcsfs, aiohttp, requests and google.auth
    bucket = path.removeprefix('gs://').partition('/')[0]
    found = ' '.join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError):
      raise FileNotFoundError(f'{path} cannot be {done}: there is no such object, or no bucket {bucket}. Give '
                              'another path, or create the bucket.') from error
    if found.startswith('Forbidden') or getattr(error, 'code', None) == 401 or 'google.auth' in type(error).__module__:
      raise PermissionError(
        f'{path} cannot be {done}: the object store refused it ({found}). Log in with `gcloud auth '
        f'application-default login` as a user who may list, read, write and delete objects in gs://{bucket}, or give '
        'another path.') from error
    raise OSError(f'{path} cannot be {done}: the object store failed, also on retries ({found}). Existing objects are '
                  'unchanged. Try again when it can be reached, or give another path.') from error
