"""Gemma 3 (Gemma Team 2025): Gemma 2 with normed queries and keys, and a rotary base for each of two kinds of layers.

From a multimodal folder, only the language model is read.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import gemma2, llama
from prompt_tuning.models.family import table

TABLE = (*gemma2.TABLE, *table('''
  decoder/layers_{i}/self_attention/query_norm/scale  model.layers.{i}.self_attn.q_norm.weight
  decoder/layers_{i}/self_attention/key_norm/scale    model.layers.{i}.self_attn.k_norm.weight
  decoder/logits_dense/kernel                         language_model.lm_head.weight             T
'''))


class Stored(Fields):
  """The fields of a `config.json` that this family reads in addition to Gemma 2."""

  sliding_window_pattern: Size | None = None


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  every = checked(config, Stored).sliding_window_pattern or 6
  return dataclasses.replace(gemma2.read(config, every=every), query_norms=True)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return gemma2.write(config) | llama.write_kinds(config)


FAMILY = dataclasses.replace(
  llama.FAMILY, name='gemma3', model_types=('gemma3_text', 'gemma3'), required=llama.REQUIRED,
  architecture='Gemma3ForCausalLM', read=read, write=write, table=TABLE, prefixes=llama.WRAPPED,
  unread=(*llama.FAMILY.unread, *llama.IMAGES),
  defaults={**gemma2.DEFAULTS, 'rope_theta': 1e6, 'rope_local_base_freq': 1e4, 'vocab_size': 262208})
