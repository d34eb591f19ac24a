"""Gemma 2 (Gemma Team 2024): Llama with norms also after attention and MLP, caps, scaled embeddings, and windows."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Positive, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama
from prompt_tuning.models.family import table

TABLE = table('''
  token_embedder/embedding                                 model.embed_tokens.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/scale   model.layers.{i}.input_layernorm.weight
  decoder/layers_{i}/self_attention/query/kernel           model.layers.{i}.self_attn.q_proj.weight            T
  decoder/layers_{i}/self_attention/query/bias             model.layers.{i}.self_attn.q_proj.bias
  decoder/layers_{i}/self_attention/key/kernel             model.layers.{i}.self_attn.k_proj.weight            T
  decoder/layers_{i}/self_attention/key/bias               model.layers.{i}.self_attn.k_proj.bias
  decoder/layers_{i}/self_attention/value/kernel           model.layers.{i}.self_attn.v_proj.weight            T
  decoder/layers_{i}/self_attention/value/bias             model.layers.{i}.self_attn.v_proj.bias
  decoder/layers_{i}/self_attention/out/kernel             model.layers.{i}.self_attn.o_proj.weight            T
  decoder/layers_{i}/self_attention/out/bias               model.layers.{i}.self_attn.o_proj.bias
  decoder/layers_{i}/post_self_attention_layer_norm/scale  model.layers.{i}.post_attention_layernorm.weight
  decoder/layers_{i}/pre_mlp_layer_norm/scale              model.layers.{i}.pre_feedforward_layernorm.weight
  decoder/layers_{i}/mlp/wi_0/kernel                       model.layers.{i}.mlp.gate_proj.weight               T
  decoder/layers_{i}/mlp/wi_1/kernel                       model.layers.{i}.mlp.up_proj.weight                 T
  decoder/layers_{i}/mlp/wo/kernel                         model.layers.{i}.mlp.down_proj.weight               T
  decoder/layers_{i}/post_mlp_layer_norm/scale             model.layers.{i}.post_feedforward_layernorm.weight
  decoder/decoder_norm/scale                               model.norm.weight
  decoder/logits_dense/kernel                              lm_head.weight                                      T
''')
DEFAULTS = {'head_dim': 256, 'num_attention_heads': 8, 'num_key_value_heads': 4, 'query_pre_attn_scalar': 256,
            'hidden_activation': 'gelu_pytorch_tanh', 'sliding_window': 4096}


class Stored(llama.Stored, kw_only=True):
  """The fields of a `config.json` that this family reads."""

  query_pre_attn_scalar: Positive
  attn_logit_softcapping: Positive | None = None
  final_logit_softcapping: Positive | None = None


def read(config: Mapping[str, Any], *, every: int = 2) -> DecoderConfig:
  """Returns the config of a `config.json`; if that has no layer types, every `every`-th layer sees all positions."""
  stored = checked(config, Stored)
  kinds = [llama.LOCAL if (i + 1) % every else llama.FULL for i in range(stored.num_hidden_layers)]
  return dataclasses.replace(
    llama.read(llama.typed(config, kinds)), norm_offset=1.0, post_norms=True,
    query_scale=stored.query_pre_attn_scalar**-0.5, embedding_scale=stored.hidden_size**0.5,
    attention_cap=stored.attn_logit_softcapping or 0.0, output_cap=stored.final_logit_softcapping or 0.0)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return llama.write(config) | {
    'query_pre_attn_scalar': round(config.query_scale**-2), 'attn_logit_softcapping': config.attention_cap or None,
    'final_logit_softcapping': config.output_cap or None}


FAMILY = dataclasses.replace(
  llama.FAMILY, name='gemma2', model_types=('gemma2',), required=llama.REQUIRED,
  architecture='Gemma2ForCausalLM', read=read, write=write,
  table=TABLE, defaults={**DEFAULTS, 'attn_logit_softcapping': 50.0, 'final_logit_softcapping': 30.0})
