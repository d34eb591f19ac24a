"""Mistral (Jiang et al. 2023): Llama whose layers see a window; in Ministral the windows differ between layers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  return llama.read(typed(config))


def typed(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a `config.json` with layer types; if it has none, all layers have the window."""
  stored = checked(config, llama.Stored)
  kind = llama.LOCAL if stored.sliding_window else llama.FULL
  return llama.typed(config, [kind] * stored.num_hidden_layers)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  written = llama.write(config)
  if len(set(config.windows)) == 1:  # with layer types, transformers reads a Mistral as a model with different layers
    del written['layer_types']
  return written


FAMILY = dataclasses.replace(
  llama.FAMILY, name='mistral', model_types=('mistral', 'ministral', 'mistral3'), required=llama.REQUIRED,
  architecture='MistralForCausalLM', read=read,
  write=write, prefixes=llama.WRAPPED, unread=(*llama.FAMILY.unread, *llama.IMAGES), table=llama.WRAPPED_TABLE,
  defaults={'sliding_window': 4096, 'num_key_value_heads': 8})
