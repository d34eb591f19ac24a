"""Objects of Google Cloud Storage, at addresses `gs://bucket/name`. An object is put whole.

gcsfs does that, and knows accounts and which errors pass; what anyone may read is read without it.
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
  """Says whether there is an object at `path`.

  Raises:
    OSError: the store cannot be asked.
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
    FileNotFoundError: there is none.
    OSError: it cannot be read.
  """
  try:
    return _read_public(path)
  except (FileNotFoundError, ConnectionError):
    raise  # an account would not help
  except OSError:  # not for everyone, or a failure that passes
    if not importlib.util.find_spec('gcsfs'):
      raise
  with _answered(path, 'read'):
    return _store(path).cat_file(path)


def put(file: str, path: str) -> None:
  """Makes a local file an object.

  Raises:
    ImportError: gcsfs is not installed.
    OSError: it cannot be written; what was there is as it was.
  """
  with _answered(path, 'written'):
    # Else caches may serve an older object for an hour where anyone may read the bucket.
    _store(path).put_file(file, path, fixed_key_metadata={'cache_control': 'no-store'})


def remove(path: str) -> None:
  """Removes an object.

  Raises:
    OSError: it cannot be removed.
  """
  with _answered(path, 'removed'):
    _store(path).rm_file(path)


def require_account(path: str) -> None:
  """Sees to it that objects can be written and listed as somebody.

  Raises:
    ImportError: gcsfs is not installed.
  """
  _store(path)


def addresses(start: str, delimiter: str | None = '/') -> list[str]:
  """Returns the addresses of all objects that begin with `start`; for those beyond a delimiter, what ends with it.

  Raises:
    OSError: they cannot be listed.
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
  """Returns the content of an object that anyone may read."""
  bucket, _, name = path.removeprefix('gs://').partition('/')
  address = f'{_emulator() or "https://storage.googleapis.com"}/{bucket}/{urllib.parse.quote(name)}'
  try:
    with urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=60) as response:
      return response.read()
  except urllib.error.HTTPError as error:
    if error.code == 404:
      raise FileNotFoundError(f'{path}: there is no such object.') from error
    raise OSError(f'{path}: the object store answered {error.code} {error.reason}. '
                  'Without gcsfs only objects that anyone may read can be read: '
                  '`pip install prompt-tuning[gcs]`, or copy it and give the local path.') from error
  except (OSError, http.client.HTTPException) as error:
    raise ConnectionError(f'{path}: the object store cannot be reached ({getattr(error, "reason", error)}). '
                          'Copy the object and give its local path.') from error


def _emulator() -> str | None:
  host = os.environ.get('STORAGE_EMULATOR_HOST')  # the variable that Google's own clients read
  return host and (host if '://' in host else f'http://{host}').rstrip('/')


def _store(path: str) -> Any:
  """Returns what writes and lists objects, as the account of this machine.

  Raises:
    ImportError: gcsfs is not installed.
  """
  try:
    return _connect(_emulator())
  except ImportError as error:
    raise ImportError(f'{path}: writing to gs://, and reading what not everyone may read, needs gcsfs: '
                      '`pip install prompt-tuning[gcs]`.') from error


@functools.cache
def _connect(emulator: str | None) -> Any:
  import aiohttp
  from gcsfs.core import GCSFileSystem

  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # what it logs is raised as well
  return GCSFileSystem(
    token='anon' if emulator else None, endpoint_url=emulator, use_listings_cache=False, skip_instance_cache=True,
    requests_timeout=aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60))


@contextlib.contextmanager
def _answered(path: str, done: str) -> Iterator[None]:
  """Makes an error of the store say what was found and what to do."""
  try:
    yield
  except ImportError:
    raise
  except Exception as error:  # of gcsfs, aiohttp, requests and google.auth
    bucket = path.removeprefix('gs://').partition('/')[0]
    found = ' '.join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError):
      raise FileNotFoundError(f'{path} cannot be {done}: there is no such object, or no bucket {bucket}. Give '
                              'another path, or make the bucket.') from error
    if found.startswith('Forbidden') or getattr(error, 'code', None) == 401 or 'google.auth' in type(error).__module__:
      raise PermissionError(
        f'{path} cannot be {done}: the object store refuses it ({found}). Log in with `gcloud auth application-default '
        f'login` as somebody who may list, read, write and delete objects in gs://{bucket}, or give another '
        'path.') from error
    raise OSError(f'{path} cannot be {done}: the object store failed, also when asked again ({found}). What was there '
                  'before is as it was. Start again when it can be reached, or give another path.') from error
