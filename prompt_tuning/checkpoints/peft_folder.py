"""The folder of a Hugging Face PEFT adapter: `adapter_config.json` and `adapter_model.safetensors`."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning.checkpoints.huggingface import read_arrays, write_arrays, write_json
from prompt_tuning.files import storage
from prompt_tuning.files.json_files import Count, Fields, Layers, Size, fields_of, read_object

SEQ_2_SEQ, CAUSAL = 'SEQ_2_SEQ_LM', 'CAUSAL_LM'
CONFIG, ARRAYS = 'adapter_config.json', 'adapter_model.safetensors'
_PICKLE = 'adapter_model.bin'


class _Config(Fields):
  peft_type: str
  task_type: str | None = None
  num_virtual_tokens: Size | None = None
  num_frozen_tokens: Count | None = None
  num_layers: Layers | None = None
  num_attention_heads: Size | None = None
  token_dim: Size | None = None


@dataclasses.dataclass(frozen=True)
class Stored:
  """An adapter as saved by PEFT.

  Attributes:
    folder: the adapter's folder, for messages.
    kind: PEFT's `peft_type`, such as 'PROMPT_TUNING'.
    config: the content of `adapter_config.json`.
    arrays: name -> float32 array, as in the file.
  """

  folder: str
  kind: str
  config: Mapping[str, Any]
  arrays: Mapping[str, np.ndarray]

  @property
  def encoder_decoder(self) -> bool | None:
    """Whether the base model is an encoder-decoder, by the task type; None if the task type does not tell."""
    return {SEQ_2_SEQ: True, CAUSAL: False}.get(self.config.get('task_type'))

  def require_family(self, encoder_decoder: bool | None) -> None:
    """Raises ValueError if the task type contradicts what is known of the base model."""
    said = self.encoder_decoder
    if None not in (encoder_decoder, said) and encoder_decoder != said:
      raise ValueError(f'{self.folder}/{CONFIG} has the task_type {self.config["task_type"]}, but the base model '
                       f'{"is an encoder-decoder" if encoder_decoder else "has no encoder"}. '
                       'Give the model that the adapter was trained for.')


def read_folder(folder: str) -> Stored:
  """Returns an adapter of any type.

  Raises:
    FileNotFoundError: the folder holds no adapter.
    ValueError: a file is damaged, or the arrays are pickled.
    OSError: the folder is not on this machine.
  """
  folder = str(folder)
  if storage.is_remote(folder):
    raise OSError(f'{folder}: adapters are read only from a local disk. Copy the folder and give its local path.')
  inside = ', '.join(adapters_inside(folder))
  file, path = os.path.join(folder, CONFIG), os.path.join(folder, ARRAYS)
  config = read_object(file, f'the folder of a PEFT adapter{f", such as {inside}" if inside else ""}')
  kind = fields_of(file, config, _Config).peft_type
  if not os.path.exists(path):
    if os.path.exists(os.path.join(folder, _PICKLE)):
      raise ValueError(f'{folder} holds its arrays as {_PICKLE}: a Python pickle, which is never loaded because '
                       f'loading runs code. Expected {ARRAYS}. If you trust the file, convert it: load it with PEFT '
                       'and call save_pretrained(\'NEW_FOLDER\', safe_serialization=True).')
    raise FileNotFoundError(f'{folder} holds {CONFIG}, but no {ARRAYS}. Copy it there.')
  return Stored(folder, kind, config, {name: np.asarray(array, np.float32)
                                       for name, array in read_arrays(path).items()})


def adapters_inside(folder: str) -> list[str]:
  """Returns the subfolders that hold adapters: PEFT saves named adapters there."""
  return [os.path.join(folder, name) for name in (sorted(os.listdir(folder)) if os.path.isdir(folder) else ())
          if os.path.exists(os.path.join(folder, name, CONFIG))]


def write_folder(folder: str, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a folder that PEFT loads.

  Raises:
    FileExistsError: the folder is not empty.
    OSError: it cannot be written; nothing is left of it.
  """
  with storage.whole_folder(folder) as temporary:
    write_arrays(os.path.join(temporary, ARRAYS), {name: np.ascontiguousarray(each) for name, each in arrays.items()})
    write_json(os.path.join(temporary, CONFIG), config)
