"""Models of the Hugging Face hub: the files of a repository that are read."""

import os

from prompt_tuning.data.vocabulary_folders import COPIED
from prompt_tuning.files import hub

_WEIGHTS = ('model.safetensors', 'model.safetensors.index.json', 'model-*.safetensors')
_FILES = ('config.json', 'generation_config.json', *_WEIGHTS, *COPIED)


def local_model(path: str) -> str:
  """Returns `path`, or the local folder of the hub's model that it names.

  Raises:
    OSError: the hub has no such model, or it cannot be read.
    ValueError: it has no safetensors file.
  """
  found = hub.local(path, _FILES, say=True)
  if found != path and not any(name.endswith('.safetensors') for name in os.listdir(found)):
    raise ValueError(f'{path}: this repository of the Hugging Face hub has no model.safetensors, and other forms, such '
                     'as pickles, are not fetched. Give a revision that has it (NAME@REVISION), or convert the model '
                     'with transformers (from_pretrained, then save_pretrained), and give its folder. If it has a GGUF '
                     'file, download that and give its path.')
  return found
