"""Gemma 1 (Gemma Team 2024): Llama with scaled embeddings, norms stored without their 1, and GELU in its MLP."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama

_TANH = 'gelu_pytorch_tanh'


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`; the first folders say 'gelu' and mean its approximation."""
  activation = config.get('hidden_act')
  named = {**config, 'hidden_activation': None, 'hidden_act': _TANH if activation in (None, 'gelu') else activation}
  found = llama.read(named)
  return dataclasses.replace(found, norm_offset=1.0, embedding_scale=found.width**0.5)


FAMILY = dataclasses.replace(
  llama.FAMILY, name='gemma', model_types=('gemma',), required=llama.REQUIRED, architecture='GemmaForCausalLM',
  read=read, defaults={'head_dim': 256, 'num_attention_heads': 16, 'num_key_value_heads': 16})
