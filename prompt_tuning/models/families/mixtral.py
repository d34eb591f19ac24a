"""Mixtral (Jiang et al. 2024): Mistral with a mixture of experts in place of each MLP."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.checkpoints.loading import Rule
from prompt_tuning.files.json_files import Fields, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama, mistral
from prompt_tuning.models.family import table


class _Stored(Fields):
  num_local_experts: Size
  num_experts_per_tok: Size


def without_mlp(rules: Sequence[Rule]) -> tuple[Rule, ...]:
  """Returns the rows of a table of names that are not of the MLP."""
  return tuple(rule for rule in rules if '/mlp/' not in rule.ours)


TABLE = (*without_mlp(llama.TABLE), *table('''
  decoder/layers_{i}/mlp/router/kernel  model.layers.{i}.block_sparse_moe.gate.weight            T
  decoder/layers_{i}/mlp/wi_0/kernel    model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight  T
  decoder/layers_{i}/mlp/wi_1/kernel    model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight  T
  decoder/layers_{i}/mlp/wo/kernel      model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight  T
'''))


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, _Stored)
  require_enough(stored.num_experts_per_tok, 'num_local_experts', stored.num_local_experts)
  return dataclasses.replace(mistral.read(config), experts=stored.num_local_experts,
                             experts_per_token=stored.num_experts_per_tok)


def require_enough(chosen: int, name: str, experts: int) -> None:
  """Raises ValueError if a token chooses more experts than there are."""
  if chosen > experts:
    raise ValueError(f'sets num_experts_per_tok to {chosen}, but {name} to {experts}. Download it again.')


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  written = llama.write(config) | {'num_local_experts': config.experts,
                                   'num_experts_per_tok': config.experts_per_token}
  del written['layer_types']  # all layers have the same window
  return written


FAMILY = dataclasses.replace(
  llama.FAMILY, name='mixtral', model_types=('mixtral',), architecture='MixtralForCausalLM', read=read, write=write,
  table=TABLE, required={**llama.REQUIRED, 'attention_bias': False},
  compared=(*llama.FAMILY.compared, 'experts', 'experts_per_token'),
  defaults={'num_key_value_heads': 8, 'rms_norm_eps': 1e-5, 'rope_theta': 1e6, 'num_local_experts': 8,
            'num_experts_per_tok': 2})
