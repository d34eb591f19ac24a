"""The paths of what may be prompts below a folder: runs, `.npy` and `.safetensors` files, PEFT folders."""

import os
from collections.abc import Iterator

from absl import logging

from prompt_tuning.checkpoints.peft import CONFIG
from prompt_tuning.evaluation.saved import BEST, LAST, METRICS
from prompt_tuning.names import printable

_ENDINGS = ('.npy', '.safetensors')
_OF_RUNS = {BEST, LAST, METRICS, 'run.toml', 'numpy_checkpoints'}  # what identifies a run's folder


def find(folder: str) -> Iterator[tuple[str, str]]:
  """Yields name and path of what may be a prompt below a folder, sorted by path.

  A run and a PEFT folder are one prompt each, whose other files are not considered. Hidden files and folders, and
  folders of models, are skipped.
  """
  if _is_prompt(os.listdir(folder)):
    yield os.path.basename(os.path.abspath(folder)), folder
    return
  yield from _below(folder, '', {os.path.realpath(folder)})


def _below(folder: str, prefix: str, seen: set[str]) -> Iterator[tuple[str, str]]:
  try:
    names = sorted(name for name in os.listdir(folder) if not name.startswith('.'))
  except OSError as error:
    logging.warning('Left out: %s: %s', printable(folder), error.strerror)
    return
  for name in names:
    path, full = os.path.join(folder, name), prefix + name
    if not os.path.isdir(path):
      stem, ending = os.path.splitext(full)
      if ending in _ENDINGS and os.path.isfile(path):
        yield stem, path
      continue
    true = os.path.realpath(path)
    if true in seen:  # a link to a folder that has been visited
      continue
    seen.add(true)
    try:
      inside = os.listdir(path)
    except OSError:
      inside = []
    if _is_prompt(inside):
      yield full, path
    elif 'config.json' not in inside:
      yield from _below(path, f'{full}/', seen)


def _is_prompt(names: list[str]) -> bool:
  """Returns True for the names in the folder of a run, or of a PEFT adapter."""
  return CONFIG in names or not _OF_RUNS.isdisjoint(names)
