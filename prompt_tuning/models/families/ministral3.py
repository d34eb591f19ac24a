"""Ministral 3 (Mistral AI 2025): Mistral whose queries grow with their position, as in Llama 4."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama, mistral

_ROTARY = {'rope_type': 'yarn', 'rope_theta': 1e6, 'factor': 16.0, 'original_max_position_embeddings': 16384,
           'beta_fast': 32.0, 'beta_slow': 1.0, 'mscale': 1.0, 'mscale_all_dim': 1.0, 'llama_4_scaling_beta': 0.1}


class Stored(Fields):
  """The fields of a `config.json` that this family reads in addition to Mistral."""

  rope_parameters: dict[str, Any] | None = None
  rope_scaling: dict[str, Any] | None = None
  original_max_position_embeddings: Size | None = None
  max_position_embeddings: Size = 262144


class _Growth(Fields):
  """The fields of `rope_parameters` that are not about rotary positions."""

  llama_4_scaling_beta: float | None = None
  original_max_position_embeddings: Size | None = None


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  rotary = stored.rope_parameters or stored.rope_scaling or _ROTARY
  growth = checked(rotary, _Growth)
  span = (stored.original_max_position_embeddings or growth.original_max_position_embeddings
          or stored.max_position_embeddings)
  found = mistral.read({**config, 'rope_parameters': rotary, 'rope_scaling': None})
  rate = growth.llama_4_scaling_beta
  return dataclasses.replace(found, query_growth=(rate, span) if rate else None)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  rate, span = config.query_growth or (0.0, config.rotary[0].original or 1)
  written = llama.write(config)
  written['rope_parameters'] |= {'llama_4_scaling_beta': rate, 'original_max_position_embeddings': span}
  del written['layer_types']  # all layers have the same window
  return written


FAMILY = dataclasses.replace(
  mistral.FAMILY, name='ministral3', model_types=('ministral3',), architecture='Ministral3ForCausalLM', read=read,
  write=write, required={**llama.REQUIRED, 'attention_bias': False},
  defaults={'num_key_value_heads': 8, 'head_dim': 128, 'rms_norm_eps': 1e-5})
