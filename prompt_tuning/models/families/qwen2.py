"""Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases on queries, keys and values, and optional windows."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  return dataclasses.replace(read_windows(config), projection_biases=('query', 'key', 'value'))


def read_windows(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a Llama; if windows are used, its upper layers have them."""
  count, first = config['num_hidden_layers'], config.get('max_window_layers', 28)
  if not config.get('use_sliding_window'):
    return llama.read({**config, 'layer_types': [llama.FULL] * count})
  return llama.read(llama.typed(config, [llama.LOCAL if i >= first else llama.FULL for i in range(count)]))


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return llama.write(config) | {'use_sliding_window': any(config.windows)}


FAMILY = dataclasses.replace(
  llama.FAMILY, name='qwen2', model_types=('qwen2',), architecture='Qwen2ForCausalLM', read=read, write=write)
