"""gpt-oss (OpenAI 2025): a mixture of experts with biases and clamped gates, attention sinks, alternating windows.

Published folders hold the experts in 4 bits (mxfp4); they are read as floating point, and written so.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.checkpoints.mxfp4 import Mxfp4
from prompt_tuning.files.json_files import Fields, Positive, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama, mixtral
from prompt_tuning.models.families.rotary import write_rotary
from prompt_tuning.models.family import table


class _Stored(Fields):
  num_hidden_layers: Size
  num_local_experts: Size
  num_experts_per_tok: Size
  swiglu_alpha: Positive = 1.702
  swiglu_limit: Positive = 7.0


TABLE = (*mixtral.without_mlp(llama.TABLE), *table('''
  decoder/layers_{i}/self_attention/sinks  model.layers.{i}.self_attn.sinks
  decoder/layers_{i}/mlp/router/kernel     model.layers.{i}.mlp.router.weight                                       T
  decoder/layers_{i}/mlp/router/bias       model.layers.{i}.mlp.router.bias
  decoder/layers_{i}/mlp/wi_0/kernel       model.layers.{i}.mlp.experts.gate_up_proj[0/2:alternating]
  decoder/layers_{i}/mlp/wi_0/bias         model.layers.{i}.mlp.experts.gate_up_proj_bias[0/2:alternating]
  decoder/layers_{i}/mlp/wi_1/kernel       model.layers.{i}.mlp.experts.gate_up_proj[1/2:alternating]
  decoder/layers_{i}/mlp/wi_1/bias         model.layers.{i}.mlp.experts.gate_up_proj_bias[1/2:alternating]
  decoder/layers_{i}/mlp/wo/kernel         model.layers.{i}.mlp.experts.down_proj
  decoder/layers_{i}/mlp/wo/bias           model.layers.{i}.mlp.experts.down_proj_bias
'''))
_ROTARY = {'rope_type': 'yarn', 'factor': 32.0, 'beta_fast': 32.0, 'beta_slow': 1.0, 'truncate': False,
           'original_max_position_embeddings': 4096}


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`; without layer types, every other layer has a window, the first included."""
  stored = checked(config, _Stored)
  mixtral.require_enough(stored.num_experts_per_tok, 'num_local_experts', stored.num_local_experts)
  kinds = [llama.FULL if i % 2 else llama.LOCAL for i in range(stored.num_hidden_layers)]
  if not (config.get('rope_parameters') or config.get('rope_scaling')):
    config = {**config, 'rope_scaling': _ROTARY}
  return dataclasses.replace(
    llama.read(llama.typed(config, kinds)), mlp_bias=True, router_bias=True, sinks=True,
    experts=stored.num_local_experts, experts_per_token=stored.num_experts_per_tok,
    clamped_gate=(stored.swiglu_alpha, stored.swiglu_limit))


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  sharpness, limit = config.clamped_gate
  written = llama.write(config) | {
    'num_local_experts': config.experts, 'num_experts_per_tok': config.experts_per_token, 'swiglu_alpha': sharpness,
    'swiglu_limit': limit, 'rope_parameters': write_rotary(config.rotary[0])}
  del written['mlp_bias']
  return written


FAMILY = dataclasses.replace(
  mixtral.FAMILY, name='gpt_oss', model_types=('gpt_oss',), architecture='GptOssForCausalLM', read=read, write=write,
  table=TABLE, required={'use_bidirectional_attention': False, 'hidden_act': 'silu'}, unpacks={'mxfp4': Mxfp4},
  defaults={'num_key_value_heads': 8, 'head_dim': 64, 'rms_norm_eps': 1e-5, 'rope_theta': 150000.0,
            'sliding_window': 128, 'attention_bias': True, 'num_local_experts': 128, 'num_experts_per_tok': 4,
            'max_position_embeddings': 131072})
