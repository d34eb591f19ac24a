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


# What is taken of the run.toml of a repository, which anyone may have written: nothing that names a file or a module.
_OF_REPOSITORIES = ('model', 'template', 'target_template', 'columns', 'cut', 'labels', 'max_input_length',
                    'max_target_length')


def read_beside(prompt: str) -> dict[str, Any]:
  """Returns the settings of the run that a folder, or the folder of a file, belongs to; {} if it has no file.

  Of a prompt in a repository of the Hugging Face hub, only those that describe model and examples are returned.
  """
  from prompt_tuning.files import hub, storage

  if not os.path.exists(prompt) and not os.path.exists(f'{prompt}.npy') and hub.is_id(prompt):
    folder = hub.local(prompt, hub.TRAINED)
    found = read(folder) if folder != prompt and os.path.exists(os.path.join(folder, NAME)) else {}
    return {name: value for name, value in found.items() if name in _OF_REPOSITORIES}
  beside = os.path.dirname(prompt)
  above = [os.path.dirname(beside)] if os.path.basename(beside) == 'prompts' else []  # a run's prompt of one task
  for folder in (prompt, beside, *above):
    path = storage.join(folder, NAME)
    if storage.exists(path):
      return read(path)
  return {}
