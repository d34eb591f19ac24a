"""Mistral (Jiang et al. 2023): Llama whose layers see a window; a Ministral's differ from one another."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config that a `config.json` describes."""
  kind = llama.LOCAL if config.get('sliding_window') else llama.FULL
  return llama.read(llama.typed(config, [kind] * config['num_hidden_layers']))


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns what `config.json` says: the inverse of `read`."""
  written = llama.write(config)
  if len(set(config.windows)) == 1:  # transformers reads a Mistral whose layers are named as one whose layers differ
    del written['layer_types']
  return written


FAMILY = dataclasses.replace(
  llama.FAMILY, name='mistral', model_types=('mistral', 'ministral'), architecture='MistralForCausalLM', read=read,
  write=write, defaults={'sliding_window': 4096, 'num_key_value_heads': 8})
