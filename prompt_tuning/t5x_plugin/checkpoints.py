"""`checkpoints.…` in gin files of T5X: the prompt beside each checkpoint, as a NumPy file."""

import dataclasses
import os
import re
import tempfile
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import traverse_util

from prompt_tuning import storage
from prompt_tuning.checkpoints.prompt_files import write_numpy_prompt

_PROMPT = re.compile(r'(\w+/)?prompt/prompt/prompt')


@dataclasses.dataclass(frozen=True)
class NumpyPrompts:
  """Writes `numpy_checkpoints/checkpoint_{step}/encoder.prompt.prompt.prompt` whenever T5X saves.

  A member of `utils.SaveCheckpointConfig.state_transformation_fns`, which T5X calls for both of its formats.

  Attributes:
    model_dir: the run's folder.
  """

  model_dir: str

  def __call__(self, state: Any, infos: Any) -> tuple[Any, Any]:
    """Writes the prompts of a state and gives state and infos back as they are."""
    step = int(np.asarray(state['state']['step']))
    folder = f'{self.model_dir}/numpy_checkpoints/checkpoint_{step}'
    for path, value in traverse_util.flatten_dict(state['target'], sep='/').items():
      if _PROMPT.fullmatch(path) and jax.process_index() == 0:
        _write(f'{folder}/{path.replace("/", ".")}', np.asarray(value))
    return state, infos


def _write(path: str, prompt: np.ndarray) -> None:
  """Writes where T5X does, which may be a bucket."""
  if not storage.is_remote(path):
    write_numpy_prompt(path, prompt)
    return
  with tempfile.TemporaryDirectory() as folder:
    local = os.path.join(folder, 'prompt')
    write_numpy_prompt(local, prompt)
    remote = epath.Path(path)
    remote.parent.mkdir(parents=True, exist_ok=True)
    epath.Path(local).copy(remote, overwrite=True)
