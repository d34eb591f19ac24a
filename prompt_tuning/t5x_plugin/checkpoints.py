"""`checkpoints.…` in T5X's gin files: saves the prompt of each checkpoint as a NumPy file."""

import dataclasses
import os
import re
import tempfile
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import traverse_util

from prompt_tuning.checkpoints.prompt_files import write_numpy_prompt
from prompt_tuning.files import storage

_PROMPT = re.compile(r'(\w+/)?prompt/prompt/prompt')
_CHECKPOINT = re.compile(r'checkpoint_\d+')


@dataclasses.dataclass(frozen=True)
class NumpyPrompts:
  """Writes `numpy_checkpoints/checkpoint_{step}/encoder.prompt.prompt.prompt` whenever T5X saves.

  A member of `utils.SaveCheckpointConfig.state_transformation_fns`, which T5X calls for both of its formats, before it
  writes a checkpoint and removes old ones. This call also removes the prompts of checkpoints that no longer exist: one
  save after the checkpoint, so that a killed run has the prompt of each of its checkpoints.

  Attributes:
    model_dir: the run's folder.
  """

  model_dir: str

  def __call__(self, state: Any, infos: Any) -> tuple[Any, Any]:
    """Writes the prompts of a state and returns state and infos unchanged."""
    step = int(np.asarray(state['state']['step']))
    folder = f'{self.model_dir}/numpy_checkpoints/checkpoint_{step}'
    parameters = traverse_util.flatten_dict(state['target'], sep='/')
    prompts = {path: value for path, value in parameters.items() if _PROMPT.fullmatch(path)}
    if prompts and jax.process_index() == 0:
      for path, value in prompts.items():
        _write(f'{folder}/{path.replace("/", ".")}', np.asarray(value))
      self._prune(epath.Path(folder))
    return state, infos

  def _prune(self, newest: epath.Path) -> None:
    """Removes the prompts of checkpoints that no longer exist; the newest checkpoint is about to be written."""
    there = {newest.name, *(path.name for path in epath.Path(self.model_dir).iterdir())}
    for path in newest.parent.iterdir():
      if _CHECKPOINT.fullmatch(path.name) and path.name not in there:
        path.rmtree()


def _write(path: str, prompt: np.ndarray) -> None:
  """Writes a prompt to a local path or to a bucket, as T5X does."""
  if not storage.is_remote(path):
    write_numpy_prompt(path, prompt)
    return
  with tempfile.TemporaryDirectory() as folder:
    local = os.path.join(folder, 'prompt')
    write_numpy_prompt(local, prompt)
    remote = epath.Path(path)
    remote.parent.mkdir(parents=True, exist_ok=True)
    epath.Path(local).copy(remote, overwrite=True)
