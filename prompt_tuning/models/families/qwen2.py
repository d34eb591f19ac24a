"""Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases on queries, keys and values, and optional windows."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Count, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama


class Stored(llama.Stored):
  """The fields of a `config.json` that this family reads."""

  use_sliding_window: bool | None = None
  max_window_layers: Count = 28


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  return dataclasses.replace(read_windows(config), projection_biases=('query', 'key', 'value'))


def read_windows(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a Llama; if windows are used, its upper layers have them."""
  stored = checked(config, Stored)
  count, first = stored.num_hidden_layers, stored.max_window_layers
  if not (stored.use_sliding_window and stored.sliding_window):
    return llama.read({**config, 'layer_types': [llama.FULL] * count})
  return llama.read(llama.typed(config, [llama.LOCAL if i >= first else llama.FULL for i in range(count)]))


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return llama.write(config) | {'use_sliding_window': any(config.windows)}


FAMILY = dataclasses.replace(
  llama.FAMILY, name='qwen2', model_types=('qwen2',), required=llama.REQUIRED,
  architecture='Qwen2ForCausalLM', read=read, write=write,
  defaults={'sliding_window': 4096})
