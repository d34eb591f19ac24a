"""Phi-1, 1.5 and 2 (Gunasekar et al. 2023): attention and MLP in parallel after one norm, partly rotated heads."""

from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Layers, Positive, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families.activations import read_activation, write_activation
from prompt_tuning.models.families.rotary import read_rotary, write_length, write_rotary
from prompt_tuning.models.family import Family, divided, table

TABLE = table('''
  token_embedder/embedding                                model.embed_tokens.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/scale  model.layers.{i}.input_layernorm.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/bias   model.layers.{i}.input_layernorm.bias
  decoder/layers_{i}/self_attention/query/kernel          model.layers.{i}.self_attn.q_proj.weight  T
  decoder/layers_{i}/self_attention/query/bias            model.layers.{i}.self_attn.q_proj.bias
  decoder/layers_{i}/self_attention/key/kernel            model.layers.{i}.self_attn.k_proj.weight  T
  decoder/layers_{i}/self_attention/key/bias              model.layers.{i}.self_attn.k_proj.bias
  decoder/layers_{i}/self_attention/value/kernel          model.layers.{i}.self_attn.v_proj.weight  T
  decoder/layers_{i}/self_attention/value/bias            model.layers.{i}.self_attn.v_proj.bias
  decoder/layers_{i}/self_attention/out/kernel            model.layers.{i}.self_attn.dense.weight   T
  decoder/layers_{i}/self_attention/out/bias              model.layers.{i}.self_attn.dense.bias
  decoder/layers_{i}/mlp/wi/kernel                        model.layers.{i}.mlp.fc1.weight           T
  decoder/layers_{i}/mlp/wi/bias                          model.layers.{i}.mlp.fc1.bias
  decoder/layers_{i}/mlp/wo/kernel                        model.layers.{i}.mlp.fc2.weight           T
  decoder/layers_{i}/mlp/wo/bias                          model.layers.{i}.mlp.fc2.bias
  decoder/decoder_norm/scale                              model.final_layernorm.weight
  decoder/decoder_norm/bias                               model.final_layernorm.bias
  decoder/logits_dense/kernel                             lm_head.weight                            T
  decoder/logits_dense/bias                               lm_head.bias
''')


class Stored(Fields):
  """The fields of a `config.json` that this family reads."""

  vocab_size: Size
  hidden_size: Size
  intermediate_size: Size
  num_hidden_layers: Layers
  num_attention_heads: Size
  num_key_value_heads: Size | None = None
  head_dim: Size | None = None
  hidden_act: str = 'gelu_new'
  layer_norm_eps: Positive = 1e-5


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  heads, kv_heads = stored.num_attention_heads, stored.num_key_value_heads or stored.num_attention_heads
  head_dim = stored.head_dim or divided(hidden_size=stored.hidden_size, num_attention_heads=heads)
  divided(num_attention_heads=heads, num_key_value_heads=kv_heads)
  return DecoderConfig(
    layers=stored.num_hidden_layers, width=stored.hidden_size, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
    mlp_dim=stored.intermediate_size, vocab_size=stored.vocab_size,
    mlp_activations=(read_activation(stored.hidden_act),), norm='layer', norm_epsilon=stored.layer_norm_eps,
    parallel=True, shared_norm=True, bias=True, output_bias=True, query_scale=head_dim**-0.5,
    rotary=(read_rotary(config, 'full_attention', head_dim),) * stored.num_hidden_layers)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return {
    'hidden_size': config.width, 'intermediate_size': config.mlp_dim, 'num_hidden_layers': config.layers,
    'num_attention_heads': config.heads, 'num_key_value_heads': config.kv_heads, 'head_dim': config.head_dim,
    'hidden_act': write_activation(config.mlp_activations[0]), 'layer_norm_eps': config.norm_epsilon,
    'rope_parameters': {'partial_rotary_factor': 1.0, **write_rotary(config.rotary[0])},
    **write_length(config.rotary)}


FAMILY = Family(
  name='phi', model_types=('phi',), architecture='PhiForCausalLM', read=read, write=write, table=TABLE,
  prefixes=('model.', ''), unread=(r'.*\.rotary_emb\.inv_freq',), required={'qk_layernorm': False},
  defaults={'partial_rotary_factor': 0.5})
