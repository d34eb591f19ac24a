"""OLMo 2 (OLMo Team 2024): Llama with norms after attention and MLP, not before, and normed queries and keys.

The norms of queries and keys are over all heads together.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama
from prompt_tuning.models.family import table

TABLE = table('''
  token_embedder/embedding                                 model.embed_tokens.weight
  decoder/layers_{i}/self_attention/query/kernel           model.layers.{i}.self_attn.q_proj.weight            T
  decoder/layers_{i}/self_attention/query/bias             model.layers.{i}.self_attn.q_proj.bias
  decoder/layers_{i}/self_attention/query_norm/scale       model.layers.{i}.self_attn.q_norm.weight
  decoder/layers_{i}/self_attention/key/kernel             model.layers.{i}.self_attn.k_proj.weight            T
  decoder/layers_{i}/self_attention/key/bias               model.layers.{i}.self_attn.k_proj.bias
  decoder/layers_{i}/self_attention/key_norm/scale         model.layers.{i}.self_attn.k_norm.weight
  decoder/layers_{i}/self_attention/value/kernel           model.layers.{i}.self_attn.v_proj.weight            T
  decoder/layers_{i}/self_attention/value/bias             model.layers.{i}.self_attn.v_proj.bias
  decoder/layers_{i}/self_attention/out/kernel             model.layers.{i}.self_attn.o_proj.weight            T
  decoder/layers_{i}/self_attention/out/bias               model.layers.{i}.self_attn.o_proj.bias
  decoder/layers_{i}/post_self_attention_layer_norm/scale  model.layers.{i}.post_attention_layernorm.weight
  decoder/layers_{i}/mlp/wi_0/kernel                       model.layers.{i}.mlp.gate_proj.weight               T
  decoder/layers_{i}/mlp/wi_1/kernel                       model.layers.{i}.mlp.up_proj.weight                 T
  decoder/layers_{i}/mlp/wo/kernel                         model.layers.{i}.mlp.down_proj.weight               T
  decoder/layers_{i}/post_mlp_layer_norm/scale             model.layers.{i}.post_feedforward_layernorm.weight
  decoder/decoder_norm/scale                               model.norm.weight
  decoder/logits_dense/kernel                              lm_head.weight                                      T
''')


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  return dataclasses.replace(llama.read(config), pre_norms=False, post_norms=True, query_norms=True,
                             wide_query_norms=True)


FAMILY = dataclasses.replace(
  llama.FAMILY, name='olmo2', model_types=('olmo2',), required=llama.REQUIRED, architecture='Olmo2ForCausalLM',
  read=read, table=TABLE, defaults={'rms_norm_eps': 1e-5})
