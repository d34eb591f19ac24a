"""DistilBERT (Sanh et al. 2019): BERT without token types and pooler; its head is two layers with a ReLU."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Layers, Size, checked
from prompt_tuning.models.encoder_config import EncoderConfig
from prompt_tuning.models.families import bert
from prompt_tuning.models.families.activations import read_activation, write_activation
from prompt_tuning.models.family import divided, table

TABLE = table('''
  token_embedder/embedding     distilbert.embeddings.word_embeddings.weight
  position_embedder/embedding  distilbert.embeddings.position_embeddings.weight
  embedding_norm/scale         distilbert.embeddings.LayerNorm.weight
  embedding_norm/bias          distilbert.embeddings.LayerNorm.bias
  decoder/layers_{i}/attention/query/kernel               distilbert.transformer.layer.{i}.attention.q_lin.weight    T
  decoder/layers_{i}/attention/query/bias                 distilbert.transformer.layer.{i}.attention.q_lin.bias
  decoder/layers_{i}/attention/key/kernel                 distilbert.transformer.layer.{i}.attention.k_lin.weight    T
  decoder/layers_{i}/attention/key/bias                   distilbert.transformer.layer.{i}.attention.k_lin.bias
  decoder/layers_{i}/attention/value/kernel               distilbert.transformer.layer.{i}.attention.v_lin.weight    T
  decoder/layers_{i}/attention/value/bias                 distilbert.transformer.layer.{i}.attention.v_lin.bias
  decoder/layers_{i}/attention/out/kernel                 distilbert.transformer.layer.{i}.attention.out_lin.weight  T
  decoder/layers_{i}/attention/out/bias                   distilbert.transformer.layer.{i}.attention.out_lin.bias
  decoder/layers_{i}/residual_attention_layer_norm/scale  distilbert.transformer.layer.{i}.sa_layer_norm.weight
  decoder/layers_{i}/residual_attention_layer_norm/bias   distilbert.transformer.layer.{i}.sa_layer_norm.bias
  decoder/layers_{i}/mlp/wi/kernel                        distilbert.transformer.layer.{i}.ffn.lin1.weight           T
  decoder/layers_{i}/mlp/wi/bias                          distilbert.transformer.layer.{i}.ffn.lin1.bias
  decoder/layers_{i}/mlp/wo/kernel                        distilbert.transformer.layer.{i}.ffn.lin2.weight           T
  decoder/layers_{i}/mlp/wo/bias                          distilbert.transformer.layer.{i}.ffn.lin2.bias
  decoder/layers_{i}/residual_mlp_layer_norm/scale        distilbert.transformer.layer.{i}.output_layer_norm.weight
  decoder/layers_{i}/residual_mlp_layer_norm/bias         distilbert.transformer.layer.{i}.output_layer_norm.bias
  pooler/kernel                pre_classifier.weight  T
  pooler/bias                  pre_classifier.bias
  decoder/logits_dense/kernel  classifier.weight      T
  decoder/logits_dense/bias    classifier.bias
  mask_head/dense/kernel       vocab_transform.weight   T
  mask_head/dense/bias         vocab_transform.bias
  mask_head/norm/scale         vocab_layer_norm.weight
  mask_head/norm/bias          vocab_layer_norm.bias
  mask_head/bias               vocab_projector.bias
  token_embedder/embedding     vocab_projector.weight
''')


class Stored(Fields):
  """The fields of a `config.json` that this family reads."""

  vocab_size: Size
  dim: Size
  hidden_dim: Size
  n_layers: Layers
  n_heads: Size
  max_position_embeddings: Size
  activation: str = 'gelu'


def read(config: Mapping[str, Any]) -> EncoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  head_dim = divided(dim=stored.dim, n_heads=stored.n_heads)
  return EncoderConfig(
    layers=stored.n_layers, width=stored.dim, heads=stored.n_heads, head_dim=head_dim, mlp_dim=stored.hidden_dim,
    vocab_size=stored.vocab_size, mlp_activations=(read_activation(stored.activation),), norm='layer',
    norm_epsilon=1e-12, pre_norms=False, residual_norms=True, final_norm=False, bias=True, query_scale=head_dim**-0.5,
    position_count=stored.max_position_embeddings, embedding_norm=True,
    mask_activation=read_activation(stored.activation))


def write(config: EncoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return {'dim': config.width, 'hidden_dim': config.mlp_dim, 'n_layers': config.layers, 'n_heads': config.heads,
          'max_position_embeddings': config.position_count,
          'activation': write_activation(config.mlp_activations[0])}


FAMILY = dataclasses.replace(
  bert.FAMILY, name='distilbert', model_types=('distilbert',), architecture='DistilBertForSequenceClassification',
  read=read, write=write, table=TABLE, prefixes=('distilbert.', ''), pooler_activation='relu',
  unread=(r'(distilbert\.)?embeddings\.position_ids',), required={})
