"""The file of a run: the settings that differ from their defaults, as TOML."""

import os
import tomllib
from collections.abc import Mapping
from typing import Any

import tomli_w

NAME = 'run.toml'
GIN_NAME = 'config.gin'


def read(path: str) -> dict[str, Any]:
  """Returns the settings in a run's file.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is not TOML.
  """
  from prompt_tuning.files import storage

  if os.path.isdir(path):
    path = os.path.join(path, NAME)
  try:
    return tomllib.loads(storage.read_bytes(path).decode())
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{path}: there is no such file. Give the run.toml of a run.') from error
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f'{path} is not TOML: {error}. Texts need quotes, as in model = "t5_integers".') from error


def text(settings: Mapping[str, Any], *, program: str) -> str:
  """Returns settings as a run's file, with the command that repeats it."""
  return f'# `prompt-tuning {program} --config {NAME}` repeats this run; flags win.\n{tomli_w.dumps(settings)}'


def write(path: str, settings: Mapping[str, Any], *, program: str, config_text: str = '') -> None:
  """Writes settings as a run's file, and next to it the gin configuration that described them, if any."""
  from prompt_tuning.files import storage

  if config_text:
    storage.write_bytes(storage.join(os.path.dirname(path), GIN_NAME), config_text.encode())
  storage.write_bytes(path, text(settings, program=program).encode())


def read_beside(prompt: str) -> dict[str, Any]:
  """Returns the settings of the run that a folder, or the folder of a file, belongs to; {} if it has no file."""
  from prompt_tuning.files import storage

  for folder in (prompt, os.path.dirname(prompt)):
    path = storage.join(folder, NAME)
    if storage.exists(path):
      return read(path)
  return {}
