"""BERT (Devlin et al. 2019), MiniLM among others: norms after each addition, learned positions and token types.

Every token has the token type 0. The head of next sentences is not read.
"""

from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Layers, Positive, Size, checked
from prompt_tuning.models.encoder_config import EncoderConfig
from prompt_tuning.models.encoder_family import EncoderFamily
from prompt_tuning.models.families.activations import read_activation, write_activation
from prompt_tuning.models.family import divided, table

EMBEDDINGS = '''
  token_embedder/embedding     bert.embeddings.word_embeddings.weight
  position_embedder/embedding  bert.embeddings.position_embeddings.weight
  type_embedder/embedding      bert.embeddings.token_type_embeddings.weight
  embedding_norm/scale         bert.embeddings.LayerNorm.weight
  embedding_norm/bias          bert.embeddings.LayerNorm.bias
'''
LAYERS = '''
  decoder/layers_{i}/attention/query/kernel               bert.encoder.layer.{i}.attention.self.query.weight    T
  decoder/layers_{i}/attention/query/bias                 bert.encoder.layer.{i}.attention.self.query.bias
  decoder/layers_{i}/attention/key/kernel                 bert.encoder.layer.{i}.attention.self.key.weight      T
  decoder/layers_{i}/attention/key/bias                   bert.encoder.layer.{i}.attention.self.key.bias
  decoder/layers_{i}/attention/value/kernel               bert.encoder.layer.{i}.attention.self.value.weight    T
  decoder/layers_{i}/attention/value/bias                 bert.encoder.layer.{i}.attention.self.value.bias
  decoder/layers_{i}/attention/out/kernel                 bert.encoder.layer.{i}.attention.output.dense.weight  T
  decoder/layers_{i}/attention/out/bias                   bert.encoder.layer.{i}.attention.output.dense.bias
  decoder/layers_{i}/residual_attention_layer_norm/scale  bert.encoder.layer.{i}.attention.output.LayerNorm.weight
  decoder/layers_{i}/residual_attention_layer_norm/bias   bert.encoder.layer.{i}.attention.output.LayerNorm.bias
  decoder/layers_{i}/mlp/wi/kernel                        bert.encoder.layer.{i}.intermediate.dense.weight      T
  decoder/layers_{i}/mlp/wi/bias                          bert.encoder.layer.{i}.intermediate.dense.bias
  decoder/layers_{i}/mlp/wo/kernel                        bert.encoder.layer.{i}.output.dense.weight            T
  decoder/layers_{i}/mlp/wo/bias                          bert.encoder.layer.{i}.output.dense.bias
  decoder/layers_{i}/residual_mlp_layer_norm/scale        bert.encoder.layer.{i}.output.LayerNorm.weight
  decoder/layers_{i}/residual_mlp_layer_norm/bias         bert.encoder.layer.{i}.output.LayerNorm.bias
'''
TABLE = table(EMBEDDINGS + LAYERS.strip('\n') + '''
  pooler/kernel                bert.pooler.dense.weight  T
  pooler/bias                  bert.pooler.dense.bias
  decoder/logits_dense/kernel  classifier.weight         T
  decoder/logits_dense/bias    classifier.bias
  mask_head/dense/kernel       cls.predictions.transform.dense.weight      T
  mask_head/dense/bias         cls.predictions.transform.dense.bias
  mask_head/norm/scale         cls.predictions.transform.LayerNorm.weight
  mask_head/norm/bias          cls.predictions.transform.LayerNorm.bias
  mask_head/bias               cls.predictions.bias
  mask_head/bias               cls.predictions.decoder.bias
  token_embedder/embedding     cls.predictions.decoder.weight
''')


class Stored(Fields):
  """The fields of a `config.json` that this family reads."""

  vocab_size: Size
  hidden_size: Size
  intermediate_size: Size
  num_hidden_layers: Layers
  num_attention_heads: Size
  max_position_embeddings: Size
  type_vocab_size: Size = 2
  hidden_act: str = 'gelu'
  layer_norm_eps: Positive = 1e-12


def read(config: Mapping[str, Any]) -> EncoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  head_dim = divided(hidden_size=stored.hidden_size, num_attention_heads=stored.num_attention_heads)
  return EncoderConfig(
    layers=stored.num_hidden_layers, width=stored.hidden_size, heads=stored.num_attention_heads, head_dim=head_dim,
    mlp_dim=stored.intermediate_size, vocab_size=stored.vocab_size,
    mlp_activations=(read_activation(stored.hidden_act),), norm='layer', norm_epsilon=stored.layer_norm_eps,
    pre_norms=False, residual_norms=True, final_norm=False, bias=True, query_scale=head_dim**-0.5,
    position_count=stored.max_position_embeddings, token_types=stored.type_vocab_size, embedding_norm=True,
    mask_activation=read_activation(stored.hidden_act))


def write(config: EncoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return {
    'hidden_size': config.width, 'intermediate_size': config.mlp_dim, 'num_hidden_layers': config.layers,
    'num_attention_heads': config.heads, 'max_position_embeddings': config.position_count + config.position_offset,
    'type_vocab_size': config.token_types, 'hidden_act': write_activation(config.mlp_activations[0]),
    'layer_norm_eps': config.norm_epsilon}


FAMILY = EncoderFamily(
  name='bert', model_types=('bert',), architecture='BertForSequenceClassification', read=read, write=write, table=TABLE,
  prefixes=('bert.', ''), unread=(r'cls\.seq_relationship\..*', r'(bert\.)?embeddings\.(position|token_type)_ids'),
  required={'position_embedding_type': 'absolute', 'is_decoder': False, 'add_cross_attention': False})
