"""Trained tensors as a repository of the Hugging Face hub: this package's file, PEFT's form, settings and a card."""

import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from prompt_tuning.checkpoints import peft
from prompt_tuning.checkpoints.state import write_state
from prompt_tuning.evaluation import cards
from prompt_tuning.files import hub, json_files, terminal
from prompt_tuning.models.finding import is_shipped
from prompt_tuning.types import Flat

_FILE = 'best.safetensors'
_TEMPLATES = ('template', 'target_template', 'cut')
_SHAPE = ('model_type', 'vocab_size', 'hidden_size', 'd_model', 'n_embd', 'num_hidden_layers', 'num_layers', 'n_layer')


def push(tensors: Flat, about: Mapping[str, Any], name: str, *, model: str | None = None,
         private: bool | None = None, folder: str = '') -> str:
  """Writes trained tensors to a repository, and returns its address; a README.md of its owner is left alone.

  Args:
    tensors: name -> array.
    about: their metadata.
    name: `owner/name` of the repository, which is made if it does not exist; `@branch` may follow.
    model: the base model's name on the hub; None takes the one in the metadata.
    private: whether a new repository is private; None means the account's default.
    folder: where the tensors come from. A README.md there that its owner has changed becomes the card; of another, the
      license is kept.

  Raises:
    ImportError: huggingface_hub is not installed.
    ValueError: the name is not that of a repository; or `model` is not, or one of another shape.
    OSError: the repository cannot be written; the message says what to do.
  """
  if isinstance(about.get('task'), str) and '://' not in about['task']:
    about = {**about, 'task': os.path.basename(about['task'])}  # its folder is of this machine
  if model is not None:
    _require_fit(model, about.get('model_config') or {})
  base = model or about.get('base_model') or about.get('model')
  with tempfile.TemporaryDirectory(prefix='prompt_tuning_') as made:
    write_state(os.path.join(made, _FILE), tensors, about)
    adapter = _adapter(tensors, about, base, made)
    files = {_FILE: _read(made, _FILE), **adapter}
  if text := _settings(about, base):
    files['run.toml'] = text.encode()
  beside = cards.read(folder) if folder else ''
  earlier = hub.read_file(name, cards.README) if hub.is_id(name) else ''
  if cards.is_own(earlier) and not cards.is_own(beside):
    terminal.say(f'{os.path.join(folder, cards.README)} was changed: it becomes the card of {name} as it is.')
    files[cards.README] = beside.encode()
  elif cards.is_own(earlier):
    title = name.partition('/')[2].partition('@')[0]
    licensed = next((card for card in (beside, earlier) if cards.licenses(card)), '')
    files[cards.README] = cards.card(tensors, about, title=title, source=name, base=base, earlier=licensed,
                                     adapter=name.partition('@')[0] if adapter else None).encode()
  return hub.push(name, files, private=private)


def _require_fit(model: str, config: Mapping[str, Any]) -> None:
  """Raises ValueError or OSError unless there is such a model on the hub, of the shape that was trained with."""
  repository = hub.split(model)[0]
  if not repository:
    raise ValueError(f'model={model!r} cannot be used: it is not the name of a model on the hub. Give owner/name.')
  try:
    path = os.path.join(hub.fetch(repository, ('config.json',)), 'config.json')
  except PermissionError as error:
    terminal.say(f'{error} Whether the prompt fits it was not checked.')
    return
  found = json_files.part_of(json_files.read_object(path, 'the config of a model'), 'text_config')
  wrong = [f'{name}: {found[name]} there, {config[name]} in training' for name in _SHAPE
           if name in config and name in found and found[name] != config[name]]
  if wrong:
    raise ValueError(f'model={model!r} is of another shape than the model of the training ({"; ".join(wrong)}). Give '
                     'the one that was trained with.')


def _adapter(tensors: Flat, about: Mapping[str, Any], base: Any, folder: str) -> dict[str, bytes]:
  """Returns the files that PEFT loads; none if it has no form for the tensors, or needs the base model to write it."""
  made_for = about.get('made_for') or {}
  if not cards.peft_form(tensors, about) or peft.needs_modules(tensors) or 'layers' not in made_for:
    return {}
  adapter = os.path.join(folder, 'adapter')
  task = peft.SEQ_2_SEQ if len(made_for['layers']) > 1 else peft.CAUSAL
  peft.write_adapter(adapter, tensors, task_type=task,
                     embedding_scale=peft.scale_of_embeddings(made_for.get('family'), made_for['width']),
                     base_model_name_or_path=base if isinstance(base, str) else None, frozen=about.get('frozen', 0))
  return {file: _read(adapter, file) for file in sorted(os.listdir(adapter))}


def _settings(about: Mapping[str, Any], base: Any) -> str:
  """Returns the settings that use the tensors as they were trained, as `run.toml`; '' if none are known."""
  own, lengths = about.get('settings') or {}, about.get('lengths') or {}
  found = {'model': base} if isinstance(base, str) and (hub.split(base)[0] or is_shipped(base)) else {}
  found |= {name: own[name] for name in _TEMPLATES if isinstance(own.get(name), str)}
  found |= {f'max_{name[:-1]}_length': length for name, length in lengths.items() if name in ('inputs', 'targets')}
  lines = [f'{name} = {_toml(value)}' for name, value in found.items()]
  if isinstance(own.get('labels'), Mapping):
    lines += ['', '[labels]', *(f'{_toml(str(key))} = {_toml(str(value))}' for key, value in own['labels'].items())]
  return '\n'.join([*lines, '']) if lines else ''


def _toml(value: Any) -> str:
  """Returns a text or a number in TOML, which writes them as JSON does."""
  return json.dumps(value, ensure_ascii=False).replace('\x7f', '\\u007f')


def _read(folder: str, name: str) -> bytes:
  with open(os.path.join(folder, name), 'rb') as file:
    return file.read()
