"""The frozen model that a prompt was trained for, without reading all its weights."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

# Settings of a training run that describe its model.
_SETTINGS = ('model', 'imports', 'architecture', 'vocabulary', 'ignored', 'random_weights', 'new_layers',
             'rotary_length')


@dataclasses.dataclass(frozen=True)
class Base:
  """The known properties of a base model; None means unknown.

  Attributes:
    encoder_decoder: whether it is an encoder-decoder.
    width: D, of an encoder if there is one.
    layers: L of the decoder.
    kv_heads: H, the number of its KV heads.
    head_dim: K of the decoder.
    embedding_scale: the factor by which it scales embeddings.
  """

  encoder_decoder: bool | None = None
  width: int | None = None
  layers: int | None = None
  kv_heads: int | None = None
  head_dim: int | None = None
  embedding_scale: float | None = None


def read_base(folder: str) -> Base:
  """Returns the properties in the `config.json` of a Hugging Face folder, or of a model of the hub.

  Raises:
    OSError: there is no `config.json`.
    ValueError: it lacks a property.
  """
  from prompt_tuning.checkpoints.peft import scale_of_embeddings
  from prompt_tuning.files import hub
  from prompt_tuning.files.json_files import part_of, shown
  from prompt_tuning.files.model_files import read_object

  path = os.path.join(hub.local(folder, ('config.json',)), 'config.json')
  config = read_object(path, 'the Hugging Face folder of a base model')
  encoder, decoder = (part_of(config, name, 'text_config') for name in ('encoder', 'decoder'))

  def first(*names: str, default: int | None = None, part: Mapping[str, Any] = decoder) -> int:
    value = next((part[name] for name in names if part.get(name) is not None), default)
    if type(value) is not int or value < 1:
      raise ValueError(f'{path} needs one of {", ".join(names)}, a whole number above 0, but has {shown(value)}. '
                       'Give the folder of a language model.')
    return value

  of_decoder, width = (first('d_model', 'hidden_size', 'n_embd', part=part) for part in (decoder, encoder))
  heads = first('decoder_attention_heads', 'num_attention_heads', 'num_heads', 'n_head')
  return Base(encoder_decoder=bool(config.get('is_encoder_decoder', False)), width=width,
              layers=first('num_decoder_layers', 'decoder_layers', 'num_hidden_layers', 'num_layers', 'n_layer'),
              kv_heads=first('num_key_value_heads', default=heads),
              head_dim=first('d_kv', 'head_dim', default=of_decoder // heads or None),
              embedding_scale=scale_of_embeddings(encoder.get('model_type'), width))


def read_base_model(prompt: str, model: str | None, *, vocabulary: bool = True) -> Any:
  """Returns the abstract model of a prompt; its embedding is read when it is asked for.

  Args:
    prompt: a run's folder, a file (in the folder of a run or not) or a PEFT folder.
    model: the model; None takes the one that the run's `run.toml`, the adapter or the file names.
    vocabulary: read its vocabulary too.

  Raises:
    FileNotFoundError: there is no prompt, no model or no vocabulary.
    ValueError: nothing names the model, or the model does not take its embedding from its checkpoint.
  """
  from prompt_tuning.runs import run_file

  settings = {name: value for name, value in run_file.read_beside(prompt).items() if name in _SETTINGS}
  settings['model'] = model or settings.get('model') or _named(prompt)
  unread = [name for name in ('random_weights', 'new_layers') if settings.get(name)]
  if unread:
    raise ValueError(f'{prompt} was trained with {unread[0]}={settings[unread[0]]}, so its model does not embed tokens '
                     'as its checkpoint does. Only prompts of a model as it was saved can be read here.')
  return _read(settings, vocabulary)


def read_model(model: str) -> Any:
  """Returns the outline of a model with its vocabulary; raises as `read_base_model` does."""
  return _read({'model': model}, True)


def _read(settings: Mapping[str, Any], vocabulary: bool) -> Any:
  from prompt_tuning.data import registry
  from prompt_tuning.programs.abstract_models import read_outline
  from prompt_tuning.runs.base import Run

  run = Run.of(settings)
  for module in run.imports:
    registry.import_module(module)
  outline = read_outline(run)
  if outline.missing is not None:
    raise outline.missing
  if vocabulary:
    outline.read_vocabulary(run)
  return outline


def _named(prompt: str) -> str:
  """Returns the path of the model that an adapter or the metadata of a file names."""
  from prompt_tuning.checkpoints import peft
  from prompt_tuning.evaluation import saved
  from prompt_tuning.models.loading import find_model

  if os.path.exists(os.path.join(prompt, peft.CONFIG)):
    named = peft.read_adapter(prompt).config.get('base_model_name_or_path')
  else:
    about = saved.load_trained(prompt).about
    named = about.get('base_model') or about.get('model')
  with contextlib.suppress(OSError, ValueError):  # of a repository of the hub that cannot be read
    if isinstance(named, str) and os.path.isdir(find_model(named)):
      return named
  told = f'names the model {named}, but there is no such folder' if named else 'does not name its model'
  raise FileNotFoundError(f'{prompt} {told}. Give model=FOLDER, the frozen model that it was trained for.')
