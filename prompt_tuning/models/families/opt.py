"""OPT (Zhang et al. 2022): GPT-2 with separate projections, ReLU, and a position table that starts at its third row.

OPT 350m norms the residual stream after each addition instead, and its embedding is narrower than its layers.
"""

from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Layers, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families.activations import read_activation, write_activation
from prompt_tuning.models.family import Family, divided, table

# A layer's two norms are before attention and MLP, or after what these add.
TABLE = table('''
  token_embedder/embedding                                     model.decoder.embed_tokens.weight
  position_embedder/embedding                                  model.decoder.embed_positions.weight
  input_projection/kernel                                      model.decoder.project_in.weight                     T
  output_projection/kernel                                     model.decoder.project_out.weight                    T
  decoder/layers_{i}/pre_self_attention_layer_norm/scale       model.decoder.layers.{i}.self_attn_layer_norm.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/bias        model.decoder.layers.{i}.self_attn_layer_norm.bias
  decoder/layers_{i}/residual_self_attention_layer_norm/scale  model.decoder.layers.{i}.self_attn_layer_norm.weight
  decoder/layers_{i}/residual_self_attention_layer_norm/bias   model.decoder.layers.{i}.self_attn_layer_norm.bias
  decoder/layers_{i}/self_attention/query/kernel               model.decoder.layers.{i}.self_attn.q_proj.weight    T
  decoder/layers_{i}/self_attention/query/bias                 model.decoder.layers.{i}.self_attn.q_proj.bias
  decoder/layers_{i}/self_attention/key/kernel                 model.decoder.layers.{i}.self_attn.k_proj.weight    T
  decoder/layers_{i}/self_attention/key/bias                   model.decoder.layers.{i}.self_attn.k_proj.bias
  decoder/layers_{i}/self_attention/value/kernel               model.decoder.layers.{i}.self_attn.v_proj.weight    T
  decoder/layers_{i}/self_attention/value/bias                 model.decoder.layers.{i}.self_attn.v_proj.bias
  decoder/layers_{i}/self_attention/out/kernel                 model.decoder.layers.{i}.self_attn.out_proj.weight  T
  decoder/layers_{i}/self_attention/out/bias                   model.decoder.layers.{i}.self_attn.out_proj.bias
  decoder/layers_{i}/pre_mlp_layer_norm/scale                  model.decoder.layers.{i}.final_layer_norm.weight
  decoder/layers_{i}/pre_mlp_layer_norm/bias                   model.decoder.layers.{i}.final_layer_norm.bias
  decoder/layers_{i}/residual_mlp_layer_norm/scale             model.decoder.layers.{i}.final_layer_norm.weight
  decoder/layers_{i}/residual_mlp_layer_norm/bias              model.decoder.layers.{i}.final_layer_norm.bias
  decoder/layers_{i}/mlp/wi/kernel                             model.decoder.layers.{i}.fc1.weight                 T
  decoder/layers_{i}/mlp/wi/bias                               model.decoder.layers.{i}.fc1.bias
  decoder/layers_{i}/mlp/wo/kernel                             model.decoder.layers.{i}.fc2.weight                 T
  decoder/layers_{i}/mlp/wo/bias                               model.decoder.layers.{i}.fc2.bias
  decoder/decoder_norm/scale                                   model.decoder.final_layer_norm.weight
  decoder/decoder_norm/bias                                    model.decoder.final_layer_norm.bias
  decoder/logits_dense/kernel                                  lm_head.weight                                      T
''')


class Stored(Fields):
  """The fields of a `config.json` that this family reads."""

  vocab_size: Size
  hidden_size: Size
  ffn_dim: Size
  num_hidden_layers: Layers
  num_attention_heads: Size
  max_position_embeddings: Size
  word_embed_proj_dim: Size | None = None
  activation_function: str = 'relu'
  do_layer_norm_before: bool = True
  enable_bias: bool = True
  _remove_final_layer_norm: bool = False


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  head_dim = divided(hidden_size=stored.hidden_size, num_attention_heads=stored.num_attention_heads)
  before, embedded = stored.do_layer_norm_before, stored.word_embed_proj_dim or stored.hidden_size
  return DecoderConfig(
    layers=stored.num_hidden_layers, width=stored.hidden_size, heads=stored.num_attention_heads, head_dim=head_dim,
    mlp_dim=stored.ffn_dim, vocab_size=stored.vocab_size,
    mlp_activations=(read_activation(stored.activation_function),), norm='layer', norm_epsilon=1e-5, pre_norms=before,
    residual_norms=not before, final_norm=before and not stored._remove_final_layer_norm, bias=stored.enable_bias,
    query_scale=head_dim**-0.5, position_count=stored.max_position_embeddings, position_offset=2,
    embedding_width=0 if embedded == stored.hidden_size else embedded)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return {
    'hidden_size': config.width, 'word_embed_proj_dim': config.embedding_width or config.width,
    'ffn_dim': config.mlp_dim, 'num_hidden_layers': config.layers, 'num_attention_heads': config.heads,
    'max_position_embeddings': config.position_count, 'do_layer_norm_before': config.pre_norms,
    '_remove_final_layer_norm': config.pre_norms and not config.final_norm, 'enable_bias': config.bias,
    'activation_function': write_activation(config.mlp_activations[0])}


FAMILY = Family(
  name='opt', model_types=('opt',), architecture='OPTForCausalLM', read=read, write=write, table=TABLE,
  prefixes=('model.decoder.', 'decoder.', ''), required={'layer_norm_elementwise_affine': True})
