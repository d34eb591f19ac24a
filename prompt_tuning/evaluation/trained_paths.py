"""Finds trained tensors by the path of a file, the folder of a run, or the name of a repository of the hub."""

import os
import re
from collections.abc import Iterator

from prompt_tuning.checkpoints.peft import CONFIG
from prompt_tuning.files import hub, storage
from prompt_tuning.tuning.prompt import PROMPTS

BEST, LAST = 'best.safetensors', 'last.safetensors'  # in a run's folder
_CONVERT = 'Convert its folder first: `prompt-tuning convert {} prompt.safetensors --model=FOLDER`.'


def find_trained(path: str) -> str:
  """Returns `path`, or the local folder of the repository of the hub that it names."""
  return str(path) if os.path.exists(f'{path}.npy') else hub.local(path, hub.TRAINED)


def file_of(path: str) -> str:
  """Returns the file that holds the trained tensors: `path`, or the file of its run."""
  path = find_trained(path)
  folder, name = os.path.split(path)
  if name.startswith('adapter_model.') and storage.is_file(path):
    raise ValueError(f'{path} is a file of a PEFT adapter. {_CONVERT.format(folder or ".")}')
  if storage.is_file(path):
    return path
  found = next(filter(storage.exists, _files_of_run(path)), None)
  if found is None and storage.exists(storage.join(path, CONFIG)):
    raise FileNotFoundError(f'{path} is a PEFT adapter, not a run. {_CONVERT.format(path)}')
  if found is None and os.path.isdir(path):
    raise FileNotFoundError(f'{path} holds neither {BEST} nor {LAST}. Give the folder of a run that has saved its '
                            'state, or a prompt file.')
  if found is None and hub.advice(path) and not os.path.exists(path):
    raise FileNotFoundError(f'{path}: there is no such file or folder.{hub.advice(path)}')
  return found or path


def _files_of_run(folder: str) -> Iterator[str]:
  """Yields paths of a run's folder that may hold trained tensors, in order of preference."""
  yield storage.join(folder, BEST)
  yield storage.join(folder, LAST)
  saved = storage.join(folder, 'numpy_checkpoints')
  try:
    names = storage.list_folder(saved)
  except (ImportError, PermissionError):  # a bucket may allow everyone to read objects, but not to list them
    return
  found = map(re.compile(r'checkpoint_(\d+)').fullmatch, names)
  for step in sorted((int(match.group(1)) for match in found if match), reverse=True):
    for name in PROMPTS.values():
      yield storage.join(saved, f'checkpoint_{step}', name.replace('/', '.'))
