"""BLOOM (BigScience 2022): ALiBi instead of positions, and a norm after the embedding.

Query, key and value of a head are side by side in one array.
"""

from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Layers, Positive, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.family import Family, divided, table

TABLE = table('''
  token_embedder/embedding                                transformer.word_embeddings.weight
  embedding_norm/scale                                    transformer.word_embeddings_layernorm.weight
  embedding_norm/bias                                     transformer.word_embeddings_layernorm.bias
  decoder/layers_{i}/pre_self_attention_layer_norm/scale  transformer.h.{i}.input_layernorm.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/bias   transformer.h.{i}.input_layernorm.bias
  decoder/layers_{i}/self_attention/query/kernel   transformer.h.{i}.self_attention.query_key_value.weight[0/3:heads]  T
  decoder/layers_{i}/self_attention/query/bias     transformer.h.{i}.self_attention.query_key_value.bias[0/3:heads]
  decoder/layers_{i}/self_attention/key/kernel     transformer.h.{i}.self_attention.query_key_value.weight[1/3:heads]  T
  decoder/layers_{i}/self_attention/key/bias       transformer.h.{i}.self_attention.query_key_value.bias[1/3:heads]
  decoder/layers_{i}/self_attention/value/kernel   transformer.h.{i}.self_attention.query_key_value.weight[2/3:heads]  T
  decoder/layers_{i}/self_attention/value/bias     transformer.h.{i}.self_attention.query_key_value.bias[2/3:heads]
  decoder/layers_{i}/self_attention/out/kernel            transformer.h.{i}.self_attention.dense.weight        T
  decoder/layers_{i}/self_attention/out/bias              transformer.h.{i}.self_attention.dense.bias
  decoder/layers_{i}/pre_mlp_layer_norm/scale             transformer.h.{i}.post_attention_layernorm.weight
  decoder/layers_{i}/pre_mlp_layer_norm/bias              transformer.h.{i}.post_attention_layernorm.bias
  decoder/layers_{i}/mlp/wi/kernel                        transformer.h.{i}.mlp.dense_h_to_4h.weight           T
  decoder/layers_{i}/mlp/wi/bias                          transformer.h.{i}.mlp.dense_h_to_4h.bias
  decoder/layers_{i}/mlp/wo/kernel                        transformer.h.{i}.mlp.dense_4h_to_h.weight           T
  decoder/layers_{i}/mlp/wo/bias                          transformer.h.{i}.mlp.dense_4h_to_h.bias
  decoder/decoder_norm/scale                              transformer.ln_f.weight
  decoder/decoder_norm/bias                               transformer.ln_f.bias
  decoder/logits_dense/kernel                             lm_head.weight                                       T
''')
_OLD = {'n_embed': 'hidden_size', 'num_hidden_layers': 'n_layer', 'num_attention_heads': 'n_head'}


class Stored(Fields):
  """The fields of a `config.json` that this family reads."""

  vocab_size: Size
  hidden_size: Size
  n_layer: Layers
  n_head: Size
  layer_norm_epsilon: Positive = 1e-5


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`; some have other names of the same fields."""
  renamed = {new: config[old] for old, new in _OLD.items() if config.get(old) is not None}
  stored = checked({**config, **renamed}, Stored)
  head_dim = divided(hidden_size=stored.hidden_size, n_head=stored.n_head)
  return DecoderConfig(
    layers=stored.n_layer, width=stored.hidden_size, heads=stored.n_head, head_dim=head_dim,
    mlp_dim=4 * stored.hidden_size, vocab_size=stored.vocab_size, mlp_activations=('gelu',), norm='layer',
    norm_epsilon=stored.layer_norm_epsilon, bias=True, query_scale=head_dim**-0.5, linear_biases=True,
    embedding_norm=True)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return {'hidden_size': config.width, 'n_layer': config.layers, 'n_head': config.heads,
          'layer_norm_epsilon': config.norm_epsilon}


FAMILY = Family(
  name='bloom', model_types=('bloom',), architecture='BloomForCausalLM', read=read, write=write, table=TABLE,
  prefixes=('transformer.', ''), required={'apply_residual_connection_post_layernorm': False})
