"""The prompts below a folder: runs, `.npy` and `.safetensors` files, PEFT folders, by path without ending."""

import os
from collections.abc import Callable
from typing import Any

from absl import logging

from prompt_tuning.checkpoints.peft import CONFIG
from prompt_tuning.evaluation.prompt_paths import find
from prompt_tuning.evaluation.saved import BEST, LAST
from prompt_tuning.names import printable

_READ = (BEST, LAST, CONFIG, 'adapter_model.safetensors')  # the files of a folder that are read, if they are there


class PromptFolder:
  """Loads the prompts below a folder into an engine.

  Args:
    folder: the folder, or one run.
    prompts: those of the engine, with `load`.
    taken: names that no prompt may have.
    loaded: called with the name of each prompt that was loaded.

  Raises:
    NotADirectoryError: there is no such folder.
  """

  def __init__(self, folder: str, prompts: Any, taken: tuple[str, ...] = (),
               loaded: Callable[[str], None] = lambda name: None):
    if not os.path.isdir(folder):
      raise NotADirectoryError(f'prompts={folder} is not a folder. Give the folder that holds runs, prompt files or '
                               'PEFT folders.')
    self._folder, self._prompts, self._taken, self._loaded = folder, prompts, taken, loaded
    self._stamps: dict[str, list[Any]] = {}  # name -> the state of its files when they were loaded, or left out

  def update(self) -> int:
    """Loads what is new or has changed, and logs what is left out and why; returns how many were loaded.

    A prompt whose file is gone stays loaded.
    """
    found: dict[str, list[str]] = {}
    for name, path in find(self._folder):
      found.setdefault(name, []).append(path)
    count = 0
    for name, paths in found.items():
      stamp = [(path, *_stamp(path)) for path in paths]
      if self._stamps.get(name) == stamp:
        continue
      self._stamps[name] = stamp
      reason = self._refusal(name, paths)
      if reason is None:
        try:
          self._prompts.load(name, paths[0])
          self._loaded(name)
          count += 1
        except (ValueError, OSError) as error:
          reason = str(error)
      if reason is not None:
        where = ' and '.join(paths)
        logging.warning('Left out: %s', printable(reason if reason.startswith(where) else f'{where}: {reason}'))
    return count

  def _refusal(self, name: str, paths: list[str]) -> str | None:
    """Returns why something cannot be served under its name, or None."""
    if len(paths) > 1:
      return f'they have the same name, {name}. Rename or move all but one.'
    if not name.isprintable() or name != name.strip():
      return 'its name has characters that cannot be printed, or a space at an end. Rename it.'
    if any(name == each or name.startswith(f'{each}:') for each in self._taken):
      return f'{name} is the name of the base model. Rename it, or give the model another served_model_name=.'
    return None


def _stamp(path: str) -> tuple[Any, ...]:
  """Returns what changes when a prompt is written again."""
  saved = [os.path.join(path, name) for name in (*_READ, 'numpy_checkpoints')] if os.path.isdir(path) else [path]
  stamp = []
  for each in saved:
    try:
      state = os.stat(each)
    except OSError:
      continue
    stamp.append((each, state.st_mtime_ns, state.st_size, state.st_ino))
  return tuple(stamp)
