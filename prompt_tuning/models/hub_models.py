"""Models of the Hugging Face hub: the files of a repository that are read, or one of its GGUF files."""

import os

from prompt_tuning.data.vocabulary_folders import COPIED
from prompt_tuning.files import hub
from prompt_tuning.files.gguf_file import SUFFIX

_WEIGHTS = ('model.safetensors', 'model.safetensors.index.json', 'model-*.safetensors')
_FILES = ('config.json', 'generation_config.json', *_WEIGHTS, *COPIED)


def local_model(path: str) -> str:
  """Returns `path`, or the local folder of the hub's model that it names, or its GGUF file.

  A GGUF file is read if a repository has no safetensors and one such file, or if it is named: `owner/name/FILE`.

  Raises:
    OSError: the hub has no such model, or it cannot be read.
    ValueError: it has neither a safetensors file nor a single GGUF file.
  """
  repository, file = hub.split(path)
  if file and not os.path.exists(path):
    return _fetched(path, repository, file)
  found = hub.local(path, _FILES, say=True)
  if found == path or (os.path.isdir(found) and any(name.endswith('.safetensors') for name in os.listdir(found))):
    return found
  files = [name for name in hub.names(path) if name.endswith(SUFFIX)]
  if len(files) > 1:
    raise ValueError(f'{path}: this repository of the Hugging Face hub has several GGUF files: {", ".join(files)}. '
                     f'Name one of them, such as {path}/{files[0]}.')
  if files:
    return _fetched(path, path, files[0])
  raise ValueError(f'{path}: this repository of the Hugging Face hub has no model.safetensors and no GGUF file, and '
                   'other forms, such as pickles, are not fetched. Give a revision that has one (NAME@REVISION), or '
                   'convert the model with transformers (from_pretrained, then save_pretrained), and give its folder.')


def _fetched(path: str, repository: str, file: str) -> str:
  """Returns the local path of a file of a repository; a path that cannot be one of the hub stays as it is."""
  folder = hub.local(repository, (file,))
  if folder == repository:  # a folder here, or the hub cannot be asked
    return path
  found = os.path.join(folder, file)
  if not os.path.exists(found):
    raise FileNotFoundError(f'{path}: {file} is not among the files of {repository}: '
                            f'{", ".join(hub.names(repository)) or "none"}. Name one of its GGUF files.')
  return found
