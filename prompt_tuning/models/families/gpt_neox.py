"""GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): attention and MLP in parallel, partly rotated heads.

Query, key and value of a head are side by side in one array.
"""

from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Layers, Positive, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families.activations import read_activation, write_activation
from prompt_tuning.models.families.rotary import read_rotary, write_length, write_rotary
from prompt_tuning.models.family import Family, divided, table

TABLE = table('''
  token_embedder/embedding                                gpt_neox.embed_in.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/scale  gpt_neox.layers.{i}.input_layernorm.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/bias   gpt_neox.layers.{i}.input_layernorm.bias
  decoder/layers_{i}/self_attention/query/kernel  gpt_neox.layers.{i}.attention.query_key_value.weight[0/3:heads] T
  decoder/layers_{i}/self_attention/query/bias  gpt_neox.layers.{i}.attention.query_key_value.bias[0/3:heads]
  decoder/layers_{i}/self_attention/key/kernel  gpt_neox.layers.{i}.attention.query_key_value.weight[1/3:heads] T
  decoder/layers_{i}/self_attention/key/bias  gpt_neox.layers.{i}.attention.query_key_value.bias[1/3:heads]
  decoder/layers_{i}/self_attention/value/kernel  gpt_neox.layers.{i}.attention.query_key_value.weight[2/3:heads] T
  decoder/layers_{i}/self_attention/value/bias  gpt_neox.layers.{i}.attention.query_key_value.bias[2/3:heads]
  decoder/layers_{i}/self_attention/out/kernel            gpt_neox.layers.{i}.attention.dense.weight           T
  decoder/layers_{i}/self_attention/out/bias              gpt_neox.layers.{i}.attention.dense.bias
  decoder/layers_{i}/pre_mlp_layer_norm/scale             gpt_neox.layers.{i}.post_attention_layernorm.weight
  decoder/layers_{i}/pre_mlp_layer_norm/bias              gpt_neox.layers.{i}.post_attention_layernorm.bias
  decoder/layers_{i}/mlp/wi/kernel                        gpt_neox.layers.{i}.mlp.dense_h_to_4h.weight         T
  decoder/layers_{i}/mlp/wi/bias                          gpt_neox.layers.{i}.mlp.dense_h_to_4h.bias
  decoder/layers_{i}/mlp/wo/kernel                        gpt_neox.layers.{i}.mlp.dense_4h_to_h.weight         T
  decoder/layers_{i}/mlp/wo/bias                          gpt_neox.layers.{i}.mlp.dense_4h_to_h.bias
  decoder/decoder_norm/scale                              gpt_neox.final_layer_norm.weight
  decoder/decoder_norm/bias                               gpt_neox.final_layer_norm.bias
  decoder/logits_dense/kernel                             embed_out.weight                                     T
  decoder/logits_dense/kernel                             lm_head.weight                                       T
''')


class Stored(Fields):
  """The fields of a `config.json` that this family reads."""

  vocab_size: Size
  hidden_size: Size
  intermediate_size: Size
  num_hidden_layers: Layers
  num_attention_heads: Size
  hidden_act: str = 'gelu'
  layer_norm_eps: Positive = 1e-5
  use_parallel_residual: bool = True
  attention_bias: bool = True
  rotary_pct: Positive = 0.25
  rotary_emb_base: Positive = 10000.0


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  head_dim = divided(hidden_size=stored.hidden_size, num_attention_heads=stored.num_attention_heads)
  rotary = read_rotary({**config, 'partial_rotary_factor': stored.rotary_pct, 'rope_theta': stored.rotary_emb_base},
                       'full_attention', head_dim)
  return DecoderConfig(
    layers=stored.num_hidden_layers, width=stored.hidden_size, heads=stored.num_attention_heads, head_dim=head_dim,
    mlp_dim=stored.intermediate_size, vocab_size=stored.vocab_size,
    mlp_activations=(read_activation(stored.hidden_act),), norm='layer', norm_epsilon=stored.layer_norm_eps,
    parallel=stored.use_parallel_residual, bias=stored.attention_bias, mlp_bias=True, query_scale=head_dim**-0.5,
    rotary=(rotary,) * stored.num_hidden_layers)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  rotary = write_rotary(config.rotary[0])
  return {
    'hidden_size': config.width, 'intermediate_size': config.mlp_dim, 'num_hidden_layers': config.layers,
    'num_attention_heads': config.heads, 'hidden_act': write_activation(config.mlp_activations[0]),
    'layer_norm_eps': config.norm_epsilon, 'use_parallel_residual': config.parallel, 'attention_bias': config.bias,
    'rotary_pct': config.rotary[0].share, 'rotary_emb_base': config.rotary[0].base,
    'rope_parameters': {'partial_rotary_factor': 1.0, **rotary}, **write_length(config.rotary)}


FAMILY = Family(
  name='gpt_neox', model_types=('gpt_neox',), architecture='GPTNeoXForCausalLM', read=read, write=write, table=TABLE,
  prefixes=('gpt_neox.', ''), unread=(r'(.*\.)?attention\.(bias|masked_bias|rotary_emb\.inv_freq)',))
