"""Repositories of the Hugging Face hub, by `owner/name` or `owner/name@revision`: read into its cache, and written.

huggingface_hub does both (`pip install '.[hub]'`), so its environment variables are honoured: HF_HUB_OFFLINE, HF_HOME,
HF_TOKEN, HF_ENDPOINT and others. Of a repository only the files are fetched that are read; pickles never are.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from prompt_tuning.files import terminal
from prompt_tuning.names import nearest

_ID = re.compile(r'([A-Za-z0-9][\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?')
_FILE = re.compile(r'\.(npy|npz|safetensors|gguf|jsonl?|toml|tsv|csv|parquet|txt|gz|model|gin|pt|pth|bin|ckpt)$')
_GGUF = re.compile(r'([^/]+/[^/]+)/([^/].*\.gguf)')
_SNAPSHOT = re.compile(r'(?:models|datasets)--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\]\w+(?:[/\\](.+\.gguf))?')
# What is read of a repository with trained tensors.
TRAINED = ('best.safetensors', 'last.safetensors', 'run.toml', 'adapter_config.json', 'adapter_model.safetensors')
_OF_MODELS = ('config.json', 'model.safetensors', 'model.safetensors.index.json')
_INSTALL = "`pip install '.[hub]'`"
_LOG_IN = 'Log in with `hf auth login`, or set HF_TOKEN'


def is_id(path: str) -> bool:
  """Returns True for `owner/name` and `owner/name@revision`; a local path may look the same."""
  return _ID.fullmatch(str(path)) is not None and not _FILE.search(str(path))


def split(name: str) -> tuple[str, str]:
  """Returns the repository that a model's name stands for, with its revision, and the GGUF file that it names in it.

  The file is '' for a whole repository; both are '' for a name that is none of the hub.
  """
  found = _GGUF.fullmatch(str(name))
  repository, file = found.groups() if found else (str(name), '')
  return (repository, file) if is_id(repository) else ('', '')


def local(path: str, files: Sequence[str], *, say: bool = False) -> str:
  """Returns the local folder of a repository, if `path` names one and nothing here has that path; else `path` itself.

  Args:
    path: a local path, an address, or the id of a repository.
    files: the names of the files to fetch, with wildcards.
    say: if there is a local folder of this name, say once that it is used.

  Raises:
    OSError: there is no such repository, or it cannot be read; or the path begins with a folder that is here, without
      a revision, so that it is probably a local one. The message says what to do.
  """
  path = str(path)
  if not is_id(path) or not _installed():
    return path
  if os.path.exists(path):
    if say:
      _say_local(path)
    return path
  folder, _, name = path.partition('/')
  if '@' not in path and os.path.isdir(folder):
    raise FileNotFoundError(
      f'{path}: the folder {folder} is here, and has no {name}.{nearest(name, os.listdir(folder))} Check the path; for '
      f'the repository of this name on the Hugging Face hub, add a revision: {path}@main.')
  return fetch(path, tuple(files))


@functools.cache  # the same revision for the whole process
def fetch(name: str, files: tuple[str, ...], kind: str = 'model') -> str:
  """Returns the local folder of a repository, whose files are fetched unless they are in the cache.

  Args:
    name: `owner/name` or `owner/name@revision`.
    files: the names of the files to fetch, with wildcards.
    kind: 'model' or 'dataset'.

  Raises:
    ImportError: huggingface_hub is not installed.
    OSError: there is no such repository, or it cannot be read; the message says what to do.
  """
  if not _installed():
    raise ImportError(f'{name} is read from the Hugging Face hub with huggingface_hub, which is not installed: '
                      f'{_INSTALL}.')
  with warnings.catch_warnings():  # in a notebook without widgets, its bars complain
    warnings.filterwarnings('ignore', 'IProgress not found')
    import tqdm.auto  # noqa: F401
  from huggingface_hub import HfApi, constants, utils

  repository, revision = _parsed(name)
  if not terminal.is_terminal() and constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
    utils.disable_progress_bars()  # a file or a pipe has no use for them
  logging.getLogger('huggingface_hub._snapshot_download').addFilter(_is_news)
  with _explained(name, kind):
    return HfApi().snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=list(files))


@functools.cache
def names(name: str) -> tuple[str, ...]:
  """Returns the names of the files of a repository of models; those in the cache if HF_HUB_OFFLINE is set.

  Raises:
    OSError: there is no such repository, or it cannot be read; the message says what to do.
  """
  from huggingface_hub import HfApi, constants

  repository, revision = _parsed(name)
  if constants.HF_HUB_OFFLINE:
    return tuple(sorted(os.listdir(fetch(name, ()))))
  with _explained(name):
    return tuple(sorted(HfApi().list_repo_files(repository, revision=revision)))


def push(name: str, files: Mapping[str, bytes], *, private: bool | None = None) -> str:
  """Writes files to a repository of models in one commit, and returns its address; a new one is made if needed.

  Args:
    name: `owner/name`, or `owner/name@branch`.
    files: name -> content.
    private: whether a new repository is private; None means the account's default.

  Raises:
    ImportError: huggingface_hub is not installed.
    ValueError: the name is not that of a repository, or that of a model's, which other files must not join.
    OSError: the repository cannot be written; the message says what to do.
  """
  if not is_id(name):
    raise ValueError(f'{name!r} is not the name of a repository. Give owner/name, such as your-account/reviews.')
  if not _installed():
    raise ImportError(f'Writing to the Hugging Face hub needs huggingface_hub, which is not installed: {_INSTALL}.')
  from huggingface_hub import CommitOperationAdd, HfApi, utils

  repository, revision = _parsed(name)
  try:
    utils.validate_repo_id(repository)
  except ValueError as error:
    raise ValueError(f'{name!r} is not the name of a repository ({str(error).splitlines()[0]}). Give owner/name, such '
                     'as your-account/reviews.') from error
  api = HfApi()
  with _explained(name, writing=True):
    there = _files_there(api, repository, revision)
  model = next((each for each in there if each in _OF_MODELS), None)
  if model is not None:
    raise ValueError(f'{name} is the repository of a model: it holds {model}. Give the prompt another name.')
  with _explained(name, writing=True):
    address = api.create_repo(repository, private=private, exist_ok=True)
    api.create_commit(repository, [CommitOperationAdd(path, content) for path, content in files.items()],
                      commit_message=f'Upload {", ".join(files)}', revision=revision)
  return str(address)


def _files_there(api: Any, repository: str, revision: str | None) -> list[str]:
  """Returns the names of the files of a repository; of a new one, without a revision, none."""
  from huggingface_hub import errors

  try:
    return list(api.list_repo_files(repository, revision=revision))
  except errors.GatedRepoError:
    raise
  except errors.RepositoryNotFoundError:
    if revision is not None:
      raise
    return []


def read_file(name: str, file: str) -> str:
  """Returns the text of a file of a repository; '' if there is none that can be read."""
  if not _installed():
    return ''
  from huggingface_hub import HfApi

  repository, revision = _parsed(name)
  try:
    with open(HfApi().hf_hub_download(repository, file, revision=revision), encoding='utf-8', errors='replace') as read:
      return read.read()
  except Exception:  # whatever the library and its HTTP client raise
    return ''


def id_of(path: str) -> str | None:
  """Returns the id of the repository that a folder of the hub's cache holds, with the name of a GGUF file in it.

  None for any other path.
  """
  found = _SNAPSHOT.search(str(path))
  return '/'.join(filter(None, found.groups())) if found else None


def advice(path: str) -> str:
  """Returns the end of a message about a path that does not exist, if it may be meant as a repository."""
  repository, at, revision = str(path).partition('@')
  if at and is_id(repository) and not is_id(path):
    return f' After @, expected a branch, a tag or a commit of the repository {repository}, found {revision!r}.'
  return '' if _installed() or not is_id(path) else (
    f' If it is a repository of the Hugging Face hub, install what reads it: {_INSTALL}.')


def _is_news(record: logging.LogRecord) -> bool:
  """Returns False for the record that no file has a name: what asked for the file says so itself."""
  return 'No files matched' not in record.getMessage()


def _installed() -> bool:
  return importlib.util.find_spec('huggingface_hub') is not None


def _parsed(name: str) -> tuple[str, str | None]:
  found = _ID.fullmatch(name)
  if found is None:
    raise ValueError(f'{name!r} is not the name of a repository. Give owner/name or owner/name@revision.')
  return found[1], found[2]


@functools.cache
def _say_local(path: str) -> None:
  terminal.say(f'{path} is a folder here: it is read, not the repository of this name on the Hugging Face hub.')


@contextlib.contextmanager
def _explained(name: str, kind: str = 'model', *, writing: bool = False) -> Iterator[None]:
  """A context whose errors become an OSError that says why a repository cannot be read or written."""
  try:
    yield
  except Exception as error:  # the library raises those of its HTTP client too
    _explain(name, kind, error, writing=writing)


def _explain(name: str, kind: str, error: Exception, *, writing: bool) -> NoReturn:
  """Raises an OSError that says why a repository cannot be read or written, and what to do."""
  from huggingface_hub import constants, errors

  repository, revision = _parsed(name)
  address = f'{constants.ENDPOINT}/{"datasets/" if kind == "dataset" else ""}{repository}'
  missing = '' if kind == 'dataset' or writing else 'there is no such folder here, and '
  status: Any = getattr(getattr(error, 'response', None), 'status_code', None)
  raised: type[OSError] = OSError
  if writing and (status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError)):
    raised, why = PermissionError, f'this account may not write {address}. {_LOG_IN}; the token needs that right'
  elif isinstance(error, errors.GatedRepoError):
    raised, why = PermissionError, f'its owner gives access on request. Ask for it at {address}. {_LOG_IN}'
  elif isinstance(error, errors.RepositoryNotFoundError):
    raised, why = FileNotFoundError, (f'{missing}this account can read no {kind} {address}. Check the name. {_LOG_IN} '
                                      'for one that is private')
  elif isinstance(error, errors.RevisionNotFoundError):
    raised, why = FileNotFoundError, (f'{address} has no revision {revision}. Give a branch, a tag or a commit that '
                                      'is there')
  elif constants.HF_HUB_OFFLINE and writing:
    raised, why = ConnectionError, 'HF_HUB_OFFLINE is set, so nothing can be written to the Hugging Face hub. Unset it'
  elif constants.HF_HUB_OFFLINE:
    of_revision = f' --revision {revision}' if revision else ''
    raised, why = FileNotFoundError, (f'{missing}the Hugging Face hub is not asked, as HF_HUB_OFFLINE is set; its '
                                      f'cache lacks {name}. Check the name, or fetch it with network: `hf '
                                      f'download {repository}{of_revision}`')
  elif isinstance(error, errors.LocalEntryNotFoundError) or status is None:
    cause = error.__cause__ or error
    raised, why = ConnectionError, (f'{missing}{constants.ENDPOINT} cannot be reached '
                                    f'({type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ""}'
                                    f'). Check the network, or fetch it elsewhere: `hf download {repository}`')
  else:
    why = f'{address} answers with an error ({str(error).splitlines()[0]}). Try again later'
  raise raised(f'{name}: {why}.') from error
