"""Granite 3 (Granite Team 2024): Llama with factors on embeddings, attention, what layers add, and logits."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Positive, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama


class Stored(Fields):
  """The fields of a `config.json` that this family reads in addition to Llama."""

  embedding_multiplier: Positive = 1.0
  attention_multiplier: Positive = 1.0
  residual_multiplier: Positive = 1.0
  logits_scaling: Positive = 1.0


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  return dataclasses.replace(
    llama.read(config), input_scale=stored.embedding_multiplier, query_scale=stored.attention_multiplier,
    residual_scale=stored.residual_multiplier, output_scale=1 / stored.logits_scaling)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return llama.write(config) | {
    'embedding_multiplier': config.input_scale, 'attention_multiplier': config.query_scale,
    'residual_multiplier': config.residual_scale, 'logits_scaling': 1 / config.output_scale}


FAMILY = dataclasses.replace(llama.FAMILY, name='granite', model_types=('granite',),
                             architecture='GraniteForCausalLM', read=read, write=write)
