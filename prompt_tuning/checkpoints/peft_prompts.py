"""Prompts and prefixes of PEFT.

With N virtual tokens, L layers, H KV heads and head width K, the array `prompt_embeddings` is

  prompts   [N, D], or [2 N, D] for an encoder-decoder, whose last N rows are never read;
  prefixes  [N, L * 2 * H * K], reshaped to [N, 2 L, H, K]: rows 2 s and 2 s + 1 are keys and values of slot s.

If a model scales its embedding (Gemma), it also scales a prompt of this package, but not a prompt of PEFT.

In a decoder-only model, layer i uses slot i. In an encoder-decoder, PEFT's decoder layer i uses slot (2 i) mod L, so
for an even L half of the slots are never read; this file does the same, so that outputs are equal. L is then the
encoder's number of layers; the decoder may have fewer. Files hold the output of a reparameterisation network only.

A prefix whose first rows are frozen is a CARTRIDGE, whose config says how many (`num_frozen_tokens`).
"""

from typing import Any

import numpy as np

from prompt_tuning.checkpoints import peft_multitask
from prompt_tuning.checkpoints.peft_folder import ARRAYS, CONFIG, Stored
from prompt_tuning.names import printable, require_number
from prompt_tuning.types import Flat

ENCODER_PROMPT, DECODER_PROMPT = 'encoder/prompt/prompt/prompt', 'decoder/prompt/prompt/prompt'
PREFIX_KEYS, PREFIX_VALUES = 'decoder/prefix/keys', 'decoder/prefix/values'
EMBEDDINGS = 'prompt_embeddings'
_MULTITASK = peft_multitask.KIND
PROMPTS = ('PROMPT_TUNING', 'P_TUNING', 'CPT', _MULTITASK)
CARTRIDGE = 'CARTRIDGE'
PREFIXES = ('PREFIX_TUNING', CARTRIDGE)
_KEYS = {_MULTITASK: set(peft_multitask.STORED.values())}  # other kinds hold only `EMBEDDINGS`


def read(adapter: Stored, *, encoder_decoder: bool | None, width: int | None, layers: int | None,
         kv_heads: int | None, head_dim: int | None, embedding_scale: float, task: int | None) -> Flat:
  """Returns what `peft.Adapter.trained` does for a prompt or prefix."""
  _require_arrays(adapter)
  if encoder_decoder is None:
    encoder_decoder = adapter.encoder_decoder
  if encoder_decoder is None:
    raise ValueError(f'{adapter.folder}/{CONFIG} has the task_type {adapter.config.get("task_type")!r}, which does not '
                     'say whether the base model is an encoder-decoder. Specify it (--model or --stack of '
                     '`prompt-tuning convert`).')
  if adapter.kind in PREFIXES:
    return _prefix(adapter, encoder_decoder, layers, kv_heads, head_dim)
  if adapter.kind == 'CPT' and encoder_decoder:
    raise ValueError(f'{adapter.folder} is a CPT adapter, which needs a decoder-only model, but the base model has an '
                     'encoder. Give the model that the adapter was trained for.')
  prompt = _prompt(adapter, encoder_decoder, width, task) / np.float32(embedding_scale)
  if adapter.kind == _MULTITASK and task is None:
    return peft_multitask.read(adapter.arrays, prompt, 'encoder' if encoder_decoder else 'decoder')
  return {ENCODER_PROMPT if encoder_decoder else DECODER_PROMPT: prompt}


def form(arrays: Flat, *, encoder_decoder: bool, kind: str, embedding_scale: float,
         frozen: int = 0) -> tuple[dict[str, Any], Flat]:
  """Returns the config and arrays of PEFT for a prompt or prefix; ({}, {}) of other tensors."""
  prompt = ENCODER_PROMPT if encoder_decoder else DECODER_PROMPT
  config, stored = peft_multitask.form(arrays, prompt.partition('/')[0], embedding_scale)
  if config:
    return config, stored
  config, embeddings = {}, None
  if arrays.keys() == {prompt}:
    config, embeddings = _prompt_form(arrays[prompt] * np.float32(embedding_scale), kind)
  elif arrays.keys() == {PREFIX_KEYS, PREFIX_VALUES}:
    config, embeddings = _prefix_form(arrays[PREFIX_KEYS], arrays[PREFIX_VALUES], encoder_decoder, frozen)
  return config, {EMBEDDINGS: embeddings} if config else {}


def _require_arrays(adapter: Stored) -> None:
  wanted = _KEYS.get(adapter.kind, {EMBEDDINGS})
  if adapter.arrays.keys() != wanted:
    found = ', '.join(map(printable, sorted(adapter.arrays))) or 'nothing'
    raise ValueError(f'{adapter.folder}/{ARRAYS} holds {found}; for an adapter of type {adapter.kind}, expected '
                     f'{", ".join(sorted(wanted))} and nothing else, since no array is dropped silently. Save the '
                     'adapter again, without modules_to_save.')


def _prompt(adapter: Stored, encoder_decoder: bool, width: int | None, task: int | None) -> np.ndarray:
  prompt, length = _matrix(adapter)
  if len(prompt) not in ((length, 2 * length) if encoder_decoder else (length,)):
    raise ValueError(f'{adapter.folder}/{ARRAYS} holds a prompt of {len(prompt)} rows; expected {length}, the '
                     f'num_virtual_tokens of {CONFIG}{", or twice as many" if encoder_decoder else ""}. '
                     'Use the two files of the same adapter.')
  if width is not None and prompt.shape[1] != width:
    raise ValueError(f'{adapter.folder}/{ARRAYS} has vectors of width {prompt.shape[1]}, but the base model has width '
                     f'{width}. Give the model that the adapter was trained for.')
  if adapter.kind == _MULTITASK:
    if len(prompt) != length:
      raise ValueError(f'{adapter.folder} holds a multitask prompt of {len(prompt)} rows: PEFT trains it with {length} '
                       'of them before the targets, but generates without those. Expected a prompt of the encoder '
                       'only: train it with num_transformer_submodules=1.')
    peft_multitask.require_factors(f'{adapter.folder}/{ARRAYS}', adapter.arrays, prompt.shape)
    if task is not None:
      prompt = prompt * peft_multitask.factor(adapter.folder, adapter.arrays, task)
  return np.ascontiguousarray(prompt[:length])  # the other rows are never read and got no gradient


def _prefix(adapter: Stored, encoder_decoder: bool, layers: int | None, kv_heads: int | None,
            head_dim: int | None) -> Flat:
  if encoder_decoder and adapter.config.get('num_transformer_submodules') == 1:
    raise ValueError(f'{adapter.folder}/{CONFIG} has num_transformer_submodules 1, with which PEFT cannot run a prefix '
                     "of an encoder-decoder; expected 2. Train it with 2, which is PEFT's default.")
  stored = adapter.config.get('num_layers')
  shallow = encoder_decoder and None not in (layers, stored) and layers < stored  # decoder shallower than encoder
  count, kv_heads, head_dim = _geometry(adapter, stored if shallow else layers, kv_heads, head_dim)
  prefix, length = _matrix(adapter)
  if prefix.shape != (length, 2 * count * kv_heads * head_dim):
    raise ValueError(f'{adapter.folder}/{ARRAYS} holds a prefix {list(prefix.shape)}; expected [{length}, '
                     f'{2 * count * kv_heads * head_dim}] for {length} virtual tokens and {count} layers of '
                     f'{kv_heads} heads of width {head_dim}. Give the model that the adapter was trained for.')
  slots = prefix.reshape(length, count, 2, kv_heads, head_dim).transpose(2, 1, 0, 3, 4)  # [2, L, P, H, K]
  keys, values = slots[:, _slots(count, encoder_decoder)[:layers]]
  return {PREFIX_KEYS: np.ascontiguousarray(keys), PREFIX_VALUES: np.ascontiguousarray(values)}


def _geometry(adapter: Stored, layers: int | None, kv_heads: int | None, head_dim: int | None) -> tuple[int, int, int]:
  """Returns L, H and K from the caller, or else from the config; if both give a value, they must agree."""
  heads, token_dim = adapter.config.get('num_attention_heads'), adapter.config.get('token_dim')
  stored = {'number of layers': adapter.config.get('num_layers'), 'number of KV heads': heads,
            'head width': token_dim // heads if token_dim and heads else None}
  given = dict(zip(stored, (layers, kv_heads, head_dim), strict=True))
  for name, value in given.items():
    if value is None and stored[name] is None:
      raise ValueError(f'{adapter.folder}/{CONFIG} lacks the {name} of its base model, which is needed to read a '
                       'prefix. Specify the model (--model of `prompt-tuning convert`).')
    if None not in (value, stored[name]) and value != stored[name]:
      raise ValueError(f'{adapter.folder}/{CONFIG} gives {stored[name]} as the {name}, but the base model has '
                       f'{value}. Give the model that the adapter was trained for.')
  return tuple(stored[name] if value is None else value for name, value in given.items())


def _matrix(adapter: Stored) -> tuple[np.ndarray, int]:
  array, length = adapter.arrays[EMBEDDINGS], adapter.config.get('num_virtual_tokens')
  if array.ndim != 2 or length is None:
    raise ValueError(f'{adapter.folder} holds {EMBEDDINGS} {list(array.shape)} and num_virtual_tokens {length}; '
                     'expected one row for each virtual token. Save the adapter again.')
  return array, length


def _prompt_form(prompt: np.ndarray, kind: str) -> tuple[dict[str, Any], np.ndarray]:
  if prompt.ndim != 2 or 0 in prompt.shape:
    raise ValueError(f'The prompt has shape {list(prompt.shape)}; expected [P, D]. Give one prompt: a PEFT adapter '
                     'holds one.')
  # One submodule: as many rows as vectors, so none is unused.
  return {'peft_type': kind, 'num_virtual_tokens': len(prompt), 'token_dim': prompt.shape[1],
          'num_transformer_submodules': 1}, np.ascontiguousarray(prompt)


def _prefix_form(keys: np.ndarray, values: np.ndarray, encoder_decoder: bool,
                 frozen: int) -> tuple[dict[str, Any], np.ndarray]:
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
  require_number('frozen', frozen, least=0, most=length, whole=True)
  own = ({'peft_type': CARTRIDGE, 'num_frozen_tokens': frozen} if frozen else
         {'peft_type': 'PREFIX_TUNING', 'prefix_projection': False})
  return {**own, 'num_virtual_tokens': length, 'num_layers': layers,
          'num_attention_heads': heads, 'token_dim': heads * head_dim,
          'num_transformer_submodules': 2 if encoder_decoder else 1}, np.ascontiguousarray(embeddings)


def _slots(layers: int, encoder_decoder: bool) -> np.ndarray:
  """Returns the slot of the file that each layer uses, [L]."""
  return np.arange(layers) * (2 if encoder_decoder else 1) % layers
