"""SmolLM3 (Bakouch et al. 2025): Llama in which every fourth layer has no rotary positions (NoPE)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama, qwen2


class Stored(qwen2.Stored):
  """The fields of a `config.json` that this family reads."""

  no_rope_layers: list[int] | None = None
  no_rope_layer_interval: Size = 4


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`; if windows are used, layers without rotary positions have them."""
  stored = checked(config, Stored)
  count, every = stored.num_hidden_layers, stored.no_rope_layer_interval
  turned = stored.no_rope_layers or [(i + 1) % every for i in range(count)]
  if len(turned) < count:
    raise ValueError(f'sets no_rope_layers for {len(turned)} layers, but num_hidden_layers to {count}. Download it '
                     'again.')
  windows = stored.use_sliding_window and stored.sliding_window
  kinds = [llama.LOCAL if windows and not each else llama.FULL for each in turned[:count]]
  found = llama.read(llama.typed(config, kinds) if windows else {**config, 'layer_types': kinds})
  rotary = tuple(each if of_layer else None for each, of_layer in zip(found.rotary, turned, strict=False))
  return dataclasses.replace(found, rotary=rotary)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return qwen2.write(config) | {'no_rope_layers': [int(each is not None) for each in config.rotary]}


FAMILY = dataclasses.replace(
  llama.FAMILY, name='smollm3', model_types=('smollm3',), architecture='SmolLM3ForCausalLM', read=read, write=write,
  defaults={'rope_theta': 2e6, 'num_key_value_heads': 4})
