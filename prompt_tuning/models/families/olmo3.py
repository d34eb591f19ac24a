"""OLMo 3 (OLMo Team 2025): OLMo 2 whose layers see a window, except every fourth; only that one scales positions."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Positive, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama, olmo2


class Stored(Fields):
  """The fields of a `config.json` that this family reads in addition to OLMo 2."""

  num_hidden_layers: int
  rope_theta: Positive = 5e5
  rope_parameters: dict[str, Any] | None = None
  rope_scaling: dict[str, Any] | None = None


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  kinds = [llama.LOCAL if (i + 1) % 4 else llama.FULL for i in range(min(stored.num_hidden_layers, 1000))]
  given = stored.rope_parameters or {}
  plain = {'rope_theta': given.get('rope_theta', stored.rope_theta)}
  if not {llama.LOCAL, llama.FULL} & given.keys():  # as before transformers 5
    given = {llama.FULL: {**plain, **(stored.rope_scaling or given)}, llama.LOCAL: plain}
  return olmo2.read(llama.typed({**config, 'rope_scaling': None, 'rope_parameters': {
    llama.LOCAL: plain, llama.FULL: plain, **given}}, kinds))


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return llama.write(config) | llama.write_kinds(config)


FAMILY = dataclasses.replace(
  olmo2.FAMILY, name='olmo3', model_types=('olmo3',), architecture='Olmo3ForCausalLM', read=read,
  write=write, defaults={'rms_norm_eps': 1e-5, 'rope_theta': 5e5, 'sliding_window': 4096})
