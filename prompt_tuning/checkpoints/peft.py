"""Reads and writes Hugging Face PEFT adapters: prompts and prefixes.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. With N virtual tokens, L layers, H KV heads and
head width K, the array `prompt_embeddings` is

  prompts   [N, D], or [2 N, D] for an encoder-decoder, whose last N rows are never read;
  prefixes  [N, L * 2 * H * K], reshaped to [N, 2 L, H, K]: rows 2 s and 2 s + 1 are keys and values of slot s.

If a model scales its embedding (Gemma), it also scales a prompt of this package, but not a prompt of PEFT.

In a decoder-only model, layer i uses slot i. In an encoder-decoder, PEFT's decoder layer i uses slot (2 i) mod L, so
for an even L half of the slots are never read; this file does the same, so that outputs are equal. L is then the
encoder's number of layers; the decoder may have fewer. Files hold the output of a reparameterisation network only.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning.checkpoints import peft_multitask
from prompt_tuning.checkpoints.huggingface import read_arrays, write_arrays, write_json
from prompt_tuning.files import storage
from prompt_tuning.files.json_files import Fields, Layers, Size, fields_of, read_object
from prompt_tuning.names import printable
from prompt_tuning.types import Flat

ENCODER_PROMPT, DECODER_PROMPT = 'encoder/prompt/prompt/prompt', 'decoder/prompt/prompt/prompt'
PREFIX_KEYS, PREFIX_VALUES = 'decoder/prefix/keys', 'decoder/prefix/values'
SEQ_2_SEQ, CAUSAL = 'SEQ_2_SEQ_LM', 'CAUSAL_LM'

CONFIG, _ARRAYS = 'adapter_config.json', 'adapter_model.safetensors'
_PICKLE = 'adapter_model.bin'
_EMBEDDINGS = 'prompt_embeddings'
_MULTITASK = peft_multitask.KIND
_PROMPTS = ('PROMPT_TUNING', 'P_TUNING', 'CPT', _MULTITASK)
_PREFIXES = ('PREFIX_TUNING', 'CARTRIDGE')
_KEYS = {_MULTITASK: set(peft_multitask.STORED.values())}  # other kinds hold only `_EMBEDDINGS`


class _Config(Fields):
  peft_type: str
  task_type: str | None = None
  num_virtual_tokens: Size | None = None
  num_layers: Layers | None = None
  num_attention_heads: Size | None = None
  token_dim: Size | None = None


@dataclasses.dataclass(frozen=True)
class Adapter:
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
  def is_prefix(self) -> bool:
    """Returns True if the adapter holds keys and values instead of input vectors."""
    return self.kind in _PREFIXES

  @property
  def encoder_decoder(self) -> bool | None:
    """Whether the base model is an encoder-decoder, by the task type; None if the task type does not tell."""
    return {SEQ_2_SEQ: True, CAUSAL: False}.get(self.config.get('task_type'))

  def trained(self, *, encoder_decoder: bool | None = None, width: int | None = None, layers: int | None = None,
              kv_heads: int | None = None, head_dim: int | None = None, embedding_scale: float = 1.0,
              task: int | None = None) -> Flat:
    """Returns the trained tensors under this package's names.

    Args:
      encoder_decoder: whether the base model is an encoder-decoder; None uses the adapter's task type.
      width: D of the base model; None skips the check.
      layers: L of the decoder. For prefixes, this and the next two default to the adapter's config.
      kv_heads: H, the number of KV heads.
      head_dim: K.
      embedding_scale: the factor by which the base model scales its embeddings.
      task: the index of the task whose prompt is returned, of a multitask prompt; None returns those of all.

    Returns:
      `encoder/prompt/prompt/prompt` or, without an encoder, `decoder/prompt/prompt/prompt` [P, D];
      or `decoder/prefix/keys` and `decoder/prefix/values` [L, P, H, K]; or the parts of a multitask prompt.

    Raises:
      ValueError: the adapter is of another kind, or does not fit.
    """
    self._require_supported()
    encoder_decoder = self._family(encoder_decoder)
    if self.is_prefix:
      return self._prefix(encoder_decoder, layers, kv_heads, head_dim)
    if self.kind == 'CPT' and encoder_decoder:
      raise ValueError(f'{self.folder} is a CPT adapter, which needs a decoder-only model, but the base model has an '
                       'encoder. Give the model that the adapter was trained for.')
    prompt = self._prompt(encoder_decoder, width, task) / np.float32(embedding_scale)
    if self.kind == _MULTITASK and task is None:
      return peft_multitask.read(self.arrays, prompt, 'encoder' if encoder_decoder else 'decoder')
    return {ENCODER_PROMPT if encoder_decoder else DECODER_PROMPT: prompt}

  def _require_supported(self) -> None:
    if self.kind not in _PROMPTS + _PREFIXES:
      raise ValueError(f'{self.folder} is an adapter of type {printable(self.kind)}, but only prompts and prefixes can '
                       f'be read: {", ".join(_PROMPTS + _PREFIXES)}. Give an adapter of one of these types.')
    wanted = _KEYS.get(self.kind, {_EMBEDDINGS})
    if self.arrays.keys() != wanted:
      found = ', '.join(map(printable, sorted(self.arrays))) or 'nothing'
      raise ValueError(f'{self.folder}/{_ARRAYS} holds {found}; for an adapter of type {self.kind}, expected '
                       f'{", ".join(sorted(wanted))} and nothing else, since no array is dropped silently. Save the '
                       'adapter again, without modules_to_save.')

  def _family(self, encoder_decoder: bool | None) -> bool:
    said = self.encoder_decoder
    if encoder_decoder is None and said is None:
      raise ValueError(f'{self.folder}/{CONFIG} has the task_type {self.config.get("task_type")!r}, which does not say '
                       'whether the base model is an encoder-decoder. Specify it (--model or --stack of '
                       '`prompt-tuning convert`).')
    if None not in (encoder_decoder, said) and encoder_decoder != said:
      raise ValueError(f'{self.folder}/{CONFIG} has the task_type {self.config["task_type"]}, but the base model '
                       f'{"is an encoder-decoder" if encoder_decoder else "has no encoder"}. '
                       'Give the model that the adapter was trained for.')
    return said if encoder_decoder is None else encoder_decoder

  def _prompt(self, encoder_decoder: bool, width: int | None, task: int | None) -> np.ndarray:
    prompt, length = self._matrix()
    if len(prompt) not in ((length, 2 * length) if encoder_decoder else (length,)):
      raise ValueError(f'{self.folder}/{_ARRAYS} holds a prompt of {len(prompt)} rows; expected {length}, the '
                       f'num_virtual_tokens of {CONFIG}{", or twice as many" if encoder_decoder else ""}. '
                       'Use the two files of the same adapter.')
    if width is not None and prompt.shape[1] != width:
      raise ValueError(f'{self.folder}/{_ARRAYS} has vectors of width {prompt.shape[1]}, but the base model has width '
                       f'{width}. Give the model that the adapter was trained for.')
    if self.kind == _MULTITASK:
      if len(prompt) != length:
        raise ValueError(f'{self.folder} holds a multitask prompt of {len(prompt)} rows: PEFT trains it with {length} '
                         'of them before the targets, but generates without those. Expected a prompt of the encoder '
                         'only: train it with num_transformer_submodules=1.')
      peft_multitask.require_factors(f'{self.folder}/{_ARRAYS}', self.arrays, prompt.shape)
      if task is not None:
        prompt = prompt * peft_multitask.factor(self.folder, self.arrays, task)
    return np.ascontiguousarray(prompt[:length])  # the other rows are never read and got no gradient

  def _prefix(self, encoder_decoder: bool, layers: int | None, kv_heads: int | None, head_dim: int | None) -> Flat:
    if encoder_decoder and self.config.get('num_transformer_submodules') == 1:
      raise ValueError(f'{self.folder}/{CONFIG} has num_transformer_submodules 1, with which PEFT cannot run a prefix '
                       "of an encoder-decoder; expected 2. Train it with 2, which is PEFT's default.")
    stored = self.config.get('num_layers')
    shallow = encoder_decoder and None not in (layers, stored) and layers < stored  # decoder shallower than encoder
    count, kv_heads, head_dim = self._geometry(stored if shallow else layers, kv_heads, head_dim)
    prefix, length = self._matrix()
    if prefix.shape != (length, 2 * count * kv_heads * head_dim):
      raise ValueError(f'{self.folder}/{_ARRAYS} holds a prefix {list(prefix.shape)}; expected [{length}, '
                       f'{2 * count * kv_heads * head_dim}] for {length} virtual tokens and {count} layers of '
                       f'{kv_heads} heads of width {head_dim}. Give the model that the adapter was trained for.')
    slots = prefix.reshape(length, count, 2, kv_heads, head_dim).transpose(2, 1, 0, 3, 4)  # [2, L, P, H, K]
    keys, values = slots[:, _slots(count, encoder_decoder)[:layers]]
    return {PREFIX_KEYS: np.ascontiguousarray(keys), PREFIX_VALUES: np.ascontiguousarray(values)}

  def _geometry(self, layers: int | None, kv_heads: int | None, head_dim: int | None) -> tuple[int, int, int]:
    """Returns L, H and K from the caller, or else from the config; if both give a value, they must agree."""
    heads, token_dim = self.config.get('num_attention_heads'), self.config.get('token_dim')
    stored = {'number of layers': self.config.get('num_layers'), 'number of KV heads': heads,
              'head width': token_dim // heads if token_dim and heads else None}
    given = dict(zip(stored, (layers, kv_heads, head_dim), strict=True))
    for name, value in given.items():
      if value is None and stored[name] is None:
        raise ValueError(f'{self.folder}/{CONFIG} lacks the {name} of its base model, which is needed to read a '
                         'prefix. Specify the model (--model of `prompt-tuning convert`).')
      if None not in (value, stored[name]) and value != stored[name]:
        raise ValueError(f'{self.folder}/{CONFIG} gives {stored[name]} as the {name}, but the base model has '
                         f'{value}. Give the model that the adapter was trained for.')
    return tuple(stored[name] if value is None else value for name, value in given.items())

  def _matrix(self) -> tuple[np.ndarray, int]:
    array, length = self.arrays[_EMBEDDINGS], self.config.get('num_virtual_tokens')
    if array.ndim != 2 or length is None:
      raise ValueError(f'{self.folder} holds {_EMBEDDINGS} {list(array.shape)} and num_virtual_tokens {length}; '
                       'expected one row for each virtual token. Save the adapter again.')
    return array, length


def read_adapter(folder: str) -> Adapter:
  """Returns an adapter of any type; `Adapter.trained` checks whether the type is supported.

  Raises:
    FileNotFoundError: the folder holds no adapter.
    ValueError: a file is damaged, or the arrays are pickled.
    OSError: the folder is not on this machine.
  """
  folder = str(folder)
  if storage.is_remote(folder):
    raise OSError(f'{folder}: adapters are read only from a local disk. Copy the folder and give its local path.')
  inside = ', '.join(adapters_inside(folder))
  file, path = os.path.join(folder, CONFIG), os.path.join(folder, _ARRAYS)
  config = read_object(file, f'the folder of a PEFT adapter{f", such as {inside}" if inside else ""}')
  kind = fields_of(file, config, _Config).peft_type
  if not os.path.exists(path):
    if os.path.exists(os.path.join(folder, _PICKLE)):
      raise ValueError(f'{folder} holds its arrays as {_PICKLE}: a Python pickle, which is never loaded because '
                       f'loading runs code. Expected {_ARRAYS}. If you trust the file, convert it: load it with PEFT '
                       'and call save_pretrained(\'NEW_FOLDER\', safe_serialization=True).')
    raise FileNotFoundError(f'{folder} holds {CONFIG}, but no {_ARRAYS}. Copy it there.')
  return Adapter(folder, kind, config, {name: np.asarray(array, np.float32)
                                        for name, array in read_arrays(path).items()})


def adapters_inside(folder: str) -> list[str]:
  """Returns the subfolders that hold adapters: PEFT saves named adapters there."""
  return [os.path.join(folder, name) for name in (sorted(os.listdir(folder)) if os.path.isdir(folder) else ())
          if os.path.exists(os.path.join(folder, name, CONFIG))]


def write_adapter(folder: str, trained: Mapping[str, Any], *, task_type: str, kind: str = _PROMPTS[0],
                  base_model_name_or_path: str | None = None, embedding_scale: float = 1.0) -> dict[str, Any]:
  """Writes a folder that PEFT loads; returns its config.

  Args:
    folder: a local folder that does not exist or is empty.
    trained: one prompt, keys and values of a prefix, or a multitask prompt, under the names in `Adapter.trained`.
    task_type: 'SEQ_2_SEQ_LM' for an encoder-decoder, 'CAUSAL_LM' for a decoder-only model.
    kind: the kind of prompt: 'PROMPT_TUNING', or 'P_TUNING', of which PEFT stores the output of its network.
    base_model_name_or_path: the base model's name in PEFT's config.
    embedding_scale: as in `Adapter.trained`.

  Raises:
    ValueError: PEFT has no format for these tensors.
    FileExistsError: the folder is not empty.
    OSError: it cannot be written; nothing is left of it.
  """
  if task_type not in (SEQ_2_SEQ, CAUSAL):
    raise ValueError(f'task_type={task_type!r} is not valid; expected {SEQ_2_SEQ} or {CAUSAL}. Use the one of the base '
                     'model.')
  if kind not in _PROMPTS[:2]:
    raise ValueError(f'kind={kind!r} is not valid for a prompt; expected {" or ".join(_PROMPTS[:2])}. Use one of them.')
  arrays = {name: np.asarray(array, np.float32) for name, array in trained.items()}
  prompt = ENCODER_PROMPT if task_type == SEQ_2_SEQ else DECODER_PROMPT
  config, stored = peft_multitask.form(arrays, prompt.partition('/')[0], embedding_scale)
  if config:
    embeddings = stored.pop(_EMBEDDINGS)
  elif arrays.keys() == {prompt}:
    config, embeddings = _prompt_form(arrays[prompt] * np.float32(embedding_scale), kind)
  elif arrays.keys() == {PREFIX_KEYS, PREFIX_VALUES}:
    config, embeddings = _prefix_form(arrays[PREFIX_KEYS], arrays[PREFIX_VALUES], task_type == SEQ_2_SEQ)
  else:
    raise ValueError(f'Found the tensors {", ".join(sorted(arrays)) or "(none)"}; a PEFT adapter for {task_type} '
                     f'holds {prompt}, or {PREFIX_KEYS} and {PREFIX_VALUES}, and nothing else. '
                     "Keep this package's file, which holds everything.")
  config |= {'task_type': task_type, 'base_model_name_or_path': base_model_name_or_path, 'inference_mode': True}
  with storage.whole_folder(folder) as temporary:
    write_arrays(os.path.join(temporary, _ARRAYS), {_EMBEDDINGS: embeddings, **stored})
    write_json(os.path.join(temporary, CONFIG), config)
  return config


def _prompt_form(prompt: np.ndarray, kind: str) -> tuple[dict[str, Any], np.ndarray]:
  if prompt.ndim != 2 or 0 in prompt.shape:
    raise ValueError(f'The prompt has shape {list(prompt.shape)}; expected [P, D]. Give one prompt: a PEFT adapter '
                     'holds one.')
  # One submodule: as many rows as vectors, so none is unused.
  return {'peft_type': kind, 'num_virtual_tokens': len(prompt), 'token_dim': prompt.shape[1],
          'num_transformer_submodules': 1}, np.ascontiguousarray(prompt)


def _prefix_form(keys: np.ndarray, values: np.ndarray, encoder_decoder: bool) -> tuple[dict[str, Any], np.ndarray]:
  if keys.shape != values.shape or keys.ndim != 4 or 0 in keys.shape:
    raise ValueError(f'The prefix has keys {list(keys.shape)} and values {list(values.shape)}; expected [L, P, H, K] '
                     'for both. Give a single prefix: a PEFT adapter holds one.')
  layers, length, heads, head_dim = keys.shape
  order = _slots(layers, encoder_decoder)
  by_layer = np.stack([keys, values], 1)  # [L, 2, P, H, K]
  slots = np.zeros_like(by_layer)
  slots[order] = by_layer
  if not np.array_equal(slots[order], by_layer):
    raise ValueError(f'The prefix has {layers} layers: in an encoder-decoder, layer i of PEFT uses slot (2 i) mod '
                     f'{layers} of the file, so layers i and i + {layers // 2} cannot differ, but here they do. '
                     "Expected an odd number of layers. Keep this package's file: PEFT cannot run this prefix.")
  embeddings = slots.transpose(2, 0, 1, 3, 4).reshape(length, -1)  # [P, L * 2 * H * K]
  return {'peft_type': 'PREFIX_TUNING', 'num_virtual_tokens': length, 'num_layers': layers, 'prefix_projection': False,
          'num_attention_heads': heads, 'token_dim': heads * head_dim,
          'num_transformer_submodules': 2 if encoder_decoder else 1}, np.ascontiguousarray(embeddings)


def _slots(layers: int, encoder_decoder: bool) -> np.ndarray:
  """Returns the slot of the file that each layer uses, [L]."""
  return np.arange(layers) * (2 if encoder_decoder else 1) % layers
