"""Phi-3 and Phi-4 (Abdin et al. 2024): Llama with fused projections, LongRoPE, and partly rotated heads."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama, mistral
from prompt_tuning.models.families.rotary import write_rotary
from prompt_tuning.models.family import table

TABLE = table('''
  token_embedder/embedding                                model.embed_tokens.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/scale  model.layers.{i}.input_layernorm.weight
  decoder/layers_{i}/self_attention/query/kernel          model.layers.{i}.self_attn.qkv_proj.weight[0/3:grouped]  T
  decoder/layers_{i}/self_attention/key/kernel            model.layers.{i}.self_attn.qkv_proj.weight[1/3:grouped]  T
  decoder/layers_{i}/self_attention/value/kernel          model.layers.{i}.self_attn.qkv_proj.weight[2/3:grouped]  T
  decoder/layers_{i}/self_attention/out/kernel            model.layers.{i}.self_attn.o_proj.weight                 T
  decoder/layers_{i}/pre_mlp_layer_norm/scale             model.layers.{i}.post_attention_layernorm.weight
  decoder/layers_{i}/mlp/wi_0/kernel                      model.layers.{i}.mlp.gate_up_proj.weight[0/2]            T
  decoder/layers_{i}/mlp/wi_1/kernel                      model.layers.{i}.mlp.gate_up_proj.weight[1/2]            T
  decoder/layers_{i}/mlp/wo/kernel                        model.layers.{i}.mlp.down_proj.weight                    T
  decoder/decoder_norm/scale                              model.norm.weight
  decoder/logits_dense/kernel                             lm_head.weight                                           T
''')


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`; its first versions call LongRoPE 'su' or 'yarn'."""
  renamed = dict(config)
  for name in ('rope_parameters', 'rope_scaling'):
    found = renamed.get(name)
    if isinstance(found, dict):
      renamed[name] = {key: 'longrope' if key in ('type', 'rope_type') and value in ('su', 'yarn') else value
                       for key, value in found.items()}
  return llama.read(mistral.typed(renamed), partial=True)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  written = llama.write(config)
  del written['layer_types']  # all layers have the same window
  return written | {'rope_parameters': {'partial_rotary_factor': 1.0, **write_rotary(config.rotary[0])}}


FAMILY = dataclasses.replace(
  llama.FAMILY, name='phi3', model_types=('phi3',), architecture='Phi3ForCausalLM', read=read, write=write, table=TABLE,
  required={**llama.REQUIRED, 'attention_bias': False},
  defaults={'rms_norm_eps': 1e-5, 'max_position_embeddings': 4096, 'original_max_position_embeddings': 4096})
