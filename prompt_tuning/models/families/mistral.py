"""Mistral (Jiang et al. 2023): Llama whose layers see a window; in Ministral the windows differ between layers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, llama.Stored)
  kind = llama.LOCAL if stored.sliding_window else llama.FULL
  return llama.read(llama.typed(config, [kind] * stored.num_hidden_layers))


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  written = llama.write(config)
  if len(set(config.windows)) == 1:  # with layer types, transformers reads a Mistral as a model with different layers
    del written['layer_types']
  return written


FAMILY = dataclasses.replace(
  llama.FAMILY, name='mistral', model_types=('mistral', 'ministral'), architecture='MistralForCausalLM', read=read,
  write=write, defaults={'sliding_window': 4096, 'num_key_value_heads': 8})
