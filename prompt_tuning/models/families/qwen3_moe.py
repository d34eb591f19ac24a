"""Qwen 3 MoE (Yang et al. 2025): Qwen 3 with a mixture of experts in place of each MLP."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama, mistral, mixtral, qwen3
from prompt_tuning.models.family import table


class _Stored(Fields):
  num_experts: Size
  num_experts_per_tok: Size
  moe_intermediate_size: Size
  norm_topk_prob: bool = False
  use_sliding_window: bool | None = None


TABLE = (*mixtral.without_mlp(qwen3.TABLE), *table('''
  decoder/layers_{i}/mlp/router/kernel  model.layers.{i}.mlp.gate.weight                   T
  decoder/layers_{i}/mlp/wi_0/kernel    model.layers.{i}.mlp.experts.{e}.gate_proj.weight  T
  decoder/layers_{i}/mlp/wi_1/kernel    model.layers.{i}.mlp.experts.{e}.up_proj.weight    T
  decoder/layers_{i}/mlp/wo/kernel      model.layers.{i}.mlp.experts.{e}.down_proj.weight  T
'''))


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`; no layer has an MLP of `intermediate_size`."""
  experts = dict(config) if config.get('num_experts') is not None else {
    **config, 'num_experts': config.get('num_local_experts', 128)}
  stored = checked(experts, _Stored)
  mixtral.require_enough(stored.num_experts_per_tok, 'num_experts', stored.num_experts)
  window = config.get('sliding_window') if stored.use_sliding_window else None
  shape = mistral.read({**config, 'sliding_window': window, 'layer_types': None,
                        'intermediate_size': stored.moe_intermediate_size})
  return dataclasses.replace(shape, query_norms=True, experts=stored.num_experts,
                             experts_per_token=stored.num_experts_per_tok, shares_sum_to_one=stored.norm_topk_prob)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  written = llama.write(config) | {
    'moe_intermediate_size': config.mlp_dim, 'num_experts': config.experts, 'use_sliding_window': any(config.windows),
    'num_experts_per_tok': config.experts_per_token, 'norm_topk_prob': config.shares_sum_to_one,
    'decoder_sparse_step': 1, 'mlp_only_layers': []}
  del written['layer_types']  # all layers have the same window
  return written


FAMILY = dataclasses.replace(
  mixtral.FAMILY, name='qwen3_moe', model_types=('qwen3_moe',), architecture='Qwen3MoeForCausalLM', read=read,
  write=write, table=TABLE, required={**llama.REQUIRED, 'decoder_sparse_step': 1, 'mlp_only_layers': []},
  defaults={'num_key_value_heads': 4, 'sliding_window': 4096, 'num_experts_per_tok': 8, 'moe_intermediate_size': 768})
