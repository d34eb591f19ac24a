"""Finds a model by its path or name, and opens its checkpoint, of any supported format."""

import os

import numpy as np

from prompt_tuning.checkpoints.gguf import GgufCheckpoint
from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder
from prompt_tuning.checkpoints.state import require_no_run
from prompt_tuning.checkpoints.t5x import T5XCheckpoint
from prompt_tuning.files import hub, model_files, storage
from prompt_tuning.files.gguf_file import SUFFIX
from prompt_tuning.files.json_files import part_of, read_object
from prompt_tuning.models.families.registry import family_of_folder
from prompt_tuning.models.family import OUTPUT, Family
from prompt_tuning.models.hub_models import local_model
from prompt_tuning.names import nearest

_SHIPPED = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'pretrained_models')


def find_model(path: str) -> str:
  """Returns the folder of a model that comes with the package or of the hub, the GGUF file of a folder, or `path`.

  Raises:
    OSError, ValueError: the hub has no such model, or it cannot be read; or a folder has several GGUF files.
  """
  if not os.path.exists(path) and is_shipped(path):
    return os.path.join(_SHIPPED, str(path))
  return _in_folder(local_model(str(path)))


def is_shipped(name: str) -> bool:
  """Returns True for the name of a model that comes with the package."""
  return str(name) != '' and '/' not in str(name) and os.path.isdir(os.path.join(_SHIPPED, str(name)))


def _in_folder(path: str) -> str:
  """Returns the only GGUF file of a local folder without safetensors; `path` itself if it has none."""
  names = [] if storage.is_remote(path) else storage.list_folder(path)
  found = [name for name in names if name.endswith(SUFFIX)]
  if not found or any(name.endswith('.safetensors') for name in names):
    return path
  if len(found) > 1:
    raise ValueError(f'{path} holds several GGUF files: {", ".join(found)}. Give the path of one of them.')
  return os.path.join(path, found[0])


def open_checkpoint(path: str) -> HuggingFaceFolder | T5XCheckpoint:
  """Returns the reader of the checkpoint at `path`, of any format.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ImportError: a package that reads it is not installed.
    ValueError: it is damaged, or something in it is not supported.
  """
  if model_files.is_gguf(path):
    if storage.is_remote(path):
      raise OSError(f'{path}: GGUF files are read only from a local disk. Copy the file and give its local path.')
    return GgufCheckpoint(path)
  if not storage.is_remote(path):
    if not os.path.isdir(path):
      shipped = sorted(os.listdir(_SHIPPED)) if os.path.isdir(_SHIPPED) else []
      found = 'this is a file' if os.path.exists(path) else f'there is no such folder.{nearest(path, shipped)}'
      raise FileNotFoundError(f'{path}: {found.rstrip(".")}. Give a T5X checkpoint, '
                              'a Hugging Face folder, a GGUF file, or the name of a model that comes with the package '
                              f'({", ".join(shipped) or "none is installed"}).{hub.advice(path)}')
    described = os.path.join(path, 'config.json')
    if os.path.exists(described):
      config = read_object(described)
      family = family_of_folder(config, path) if 'model_type' in config else None
      reader = HuggingFaceFolder(path)  # after that, as its arrays may have to be converted first
      if family is not None:
        _hide_copies(reader, family)
      return reader
    require_no_run(path)
  return T5XCheckpoint(path)


def _hide_copies(reader: HuggingFaceFolder, family: Family) -> None:
  """Hides an output layer that repeats the embedding, which older folders hold of models that share them."""
  if part_of(reader.config, 'text_config').get('tie_word_embeddings') is False:
    return
  known = reader.names()
  embeddings = [name for ours in ('decoder_token_embedder/embedding', 'token_embedder/embedding')
                for name in family.their_names(ours) if name in known]
  for name in family.their_names(OUTPUT):
    if name in known and embeddings and known[name] == known[embeddings[0]]:
      arrays = [reader.read(each) for each in (name, embeddings[0])]
      if np.array_equal(arrays[0][:1], arrays[1][:1]) and np.array_equal(*arrays):
        reader.hide(name)
