"""Qwen 3 (Yang et al. 2025): Qwen 2 with normed queries and keys, and without biases."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama, qwen2
from prompt_tuning.models.family import table

TABLE = (*llama.TABLE, *table('''
  decoder/layers_{i}/self_attention/query_norm/scale  model.layers.{i}.self_attn.q_norm.weight
  decoder/layers_{i}/self_attention/key_norm/scale    model.layers.{i}.self_attn.k_norm.weight
'''))


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  return dataclasses.replace(qwen2.read_windows(config), query_norms=True)


FAMILY = dataclasses.replace(
  llama.FAMILY, name='qwen3', model_types=('qwen3',), required=llama.REQUIRED,
  architecture='Qwen3ForCausalLM', read=read, write=qwen2.write,
  table=TABLE, defaults={'head_dim': 128, 'sliding_window': 4096})
