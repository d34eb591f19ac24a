"""T5 1.0, T5 1.1, mT5 and umT5: config and names. T5X's names are the package's, and its shapes give most values."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Layers, Size, checked, shown
from prompt_tuning.models.family import Family, Names, table
from prompt_tuning.models.t5 import T5
from prompt_tuning.models.t5_config import T5Config

# 'gelu' is the exact function, but 'gated-gelu' is the approximate one.
_ACTIVATIONS = {'relu': ('relu',), 'gated-gelu': ('gelu', 'linear'), 'gelu': ('gelu_exact',), 'gelu_new': ('gelu',),
                'silu': ('silu',), 'gated-silu': ('silu', 'linear'), 'gated-relu': ('relu', 'linear')}
TABLE = table('''
  token_embedder/embedding                            shared.weight
  token_embedder/embedding                            encoder.embed_tokens.weight
  token_embedder/embedding                            decoder.embed_tokens.weight
  encoder/relpos_bias/rel_embedding  encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight  T
  encoder/layers_{i}/relpos_bias/rel_embedding encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight T
  encoder/layers_{i}/pre_attention_layer_norm/scale   encoder.block.{i}.layer.0.layer_norm.weight
  encoder/layers_{i}/attention/query/kernel           encoder.block.{i}.layer.0.SelfAttention.q.weight     T
  encoder/layers_{i}/attention/key/kernel             encoder.block.{i}.layer.0.SelfAttention.k.weight     T
  encoder/layers_{i}/attention/value/kernel           encoder.block.{i}.layer.0.SelfAttention.v.weight     T
  encoder/layers_{i}/attention/out/kernel             encoder.block.{i}.layer.0.SelfAttention.o.weight     T
  encoder/layers_{i}/pre_mlp_layer_norm/scale         encoder.block.{i}.layer.1.layer_norm.weight
  encoder/layers_{i}/mlp/wi/kernel                    encoder.block.{i}.layer.1.DenseReluDense.wi.weight   T
  encoder/layers_{i}/mlp/wi_0/kernel                  encoder.block.{i}.layer.1.DenseReluDense.wi_0.weight T
  encoder/layers_{i}/mlp/wi_1/kernel                  encoder.block.{i}.layer.1.DenseReluDense.wi_1.weight T
  encoder/layers_{i}/mlp/wo/kernel                    encoder.block.{i}.layer.1.DenseReluDense.wo.weight   T
  encoder/encoder_norm/scale                          encoder.final_layer_norm.weight
  decoder/relpos_bias/rel_embedding  decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight  T
  decoder/layers_{i}/relpos_bias/rel_embedding decoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight T
  decoder/layers_{i}/pre_self_attention_layer_norm/scale      decoder.block.{i}.layer.0.layer_norm.weight
  decoder/layers_{i}/self_attention/query/kernel              decoder.block.{i}.layer.0.SelfAttention.q.weight      T
  decoder/layers_{i}/self_attention/key/kernel                decoder.block.{i}.layer.0.SelfAttention.k.weight      T
  decoder/layers_{i}/self_attention/value/kernel              decoder.block.{i}.layer.0.SelfAttention.v.weight      T
  decoder/layers_{i}/self_attention/out/kernel                decoder.block.{i}.layer.0.SelfAttention.o.weight      T
  decoder/layers_{i}/pre_cross_attention_layer_norm/scale     decoder.block.{i}.layer.1.layer_norm.weight
  decoder/layers_{i}/encoder_decoder_attention/query/kernel   decoder.block.{i}.layer.1.EncDecAttention.q.weight    T
  decoder/layers_{i}/encoder_decoder_attention/key/kernel     decoder.block.{i}.layer.1.EncDecAttention.k.weight    T
  decoder/layers_{i}/encoder_decoder_attention/value/kernel   decoder.block.{i}.layer.1.EncDecAttention.v.weight    T
  decoder/layers_{i}/encoder_decoder_attention/out/kernel     decoder.block.{i}.layer.1.EncDecAttention.o.weight    T
  decoder/layers_{i}/pre_mlp_layer_norm/scale                 decoder.block.{i}.layer.2.layer_norm.weight
  decoder/layers_{i}/mlp/wi/kernel                            decoder.block.{i}.layer.2.DenseReluDense.wi.weight    T
  decoder/layers_{i}/mlp/wi_0/kernel                          decoder.block.{i}.layer.2.DenseReluDense.wi_0.weight  T
  decoder/layers_{i}/mlp/wi_1/kernel                          decoder.block.{i}.layer.2.DenseReluDense.wi_1.weight  T
  decoder/layers_{i}/mlp/wo/kernel                            decoder.block.{i}.layer.2.DenseReluDense.wo.weight    T
  decoder/decoder_norm/scale                                  decoder.final_layer_norm.weight
  decoder/logits_dense/kernel                                 lm_head.weight                                        T
''')


class Stored(Fields):
  """The fields of a `config.json` that this family reads."""

  model_type: str
  vocab_size: Size
  d_model: Size
  d_kv: Size
  d_ff: Size
  num_heads: Size
  num_layers: Layers
  num_decoder_layers: Layers | None = None
  feed_forward_proj: str = 'relu'
  scale_decoder_outputs: bool | None = None
  tie_word_embeddings: bool | None = True
  relative_attention_num_buckets: Size = 32
  relative_attention_max_distance: Size = 128


def read(config: Mapping[str, Any]) -> T5Config:
  """Returns the config of a `config.json`."""
  own_biases = config.get('model_type') == 'umt5'
  stored = checked({'feed_forward_proj': 'gated-gelu', **config} if own_biases else config, Stored)
  projection, scaled = stored.feed_forward_proj, stored.scale_decoder_outputs
  buckets, distance = stored.relative_attention_num_buckets, stored.relative_attention_max_distance
  if projection not in _ACTIVATIONS:
    raise ValueError(f'asks for feed_forward_proj {projection!r}; supported are {", ".join(_ACTIVATIONS)}.')
  activation = 'gelu_new' if projection == 'gated-gelu' else projection.removeprefix('gated-')
  for name, wanted in (('is_gated_act', projection.startswith('gated-')), ('dense_act_fn', activation)):
    if config.get(name) not in (None, wanted):
      raise ValueError(f'sets {name} to {shown(config[name])}, but feed_forward_proj to {projection!r}, with which it '
                       f'is {wanted!r}. Download it again.')
  if buckets < 4 or distance <= buckets // 2:  # the encoder has an exact and a wide bucket for each direction
    raise ValueError(f'sets relative_attention_num_buckets to {buckets} and relative_attention_max_distance to '
                     f'{distance}: expected at least 4 buckets, and a distance above half of them. Download it again.')
  return T5Config(
    vocab_size=stored.vocab_size, width=stored.d_model, heads=stored.num_heads, head_dim=stored.d_kv,
    mlp_dim=stored.d_ff, encoder_layers=stored.num_layers,
    decoder_layers=stored.num_decoder_layers or stored.num_layers, mlp_activations=_ACTIVATIONS[projection],
    scaled=stored.model_type in ('t5', 'umt5') and bool(stored.tie_word_embeddings) if scaled is None else scaled,
    relative_buckets=buckets, relative_max_distance=distance, layer_biases=own_biases)


def write(config: T5Config) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  projection = next(name for name, found in _ACTIVATIONS.items() if found == config.mlp_activations)
  of_umt5 = {'model_type': 'umt5', 'architectures': ['UMT5ForConditionalGeneration']}
  return (of_umt5 if config.layer_biases else {}) | {
    'is_encoder_decoder': True, 'd_model': config.width, 'num_heads': config.heads, 'd_kv': config.head_dim,
    'd_ff': config.mlp_dim, 'num_layers': config.encoder_layers, 'num_decoder_layers': config.decoder_layers,
    'feed_forward_proj': projection, 'scale_decoder_outputs': config.scaled,
    'relative_attention_num_buckets': config.relative_buckets,
    'relative_attention_max_distance': config.relative_max_distance, 'dropout_rate': 0.0,
    'decoder_start_token_id': 0, 'pad_token_id': 0, 'eos_token_id': 1}


def infer(names: Names, path: str) -> T5Config:
  """Returns the config inferred from the shapes of a T5X checkpoint's parameters.

  The other values are those of every published T5: the distance at which the last bucket starts (128), and the
  activation (GELU if the MLP is gated, else ReLU).

  Raises:
    ValueError: the checkpoint is not a T5.
  """
  own = 'encoder/layers_0/relpos_bias/rel_embedding'
  relative = own if own in names else 'encoder/relpos_bias/rel_embedding'
  wanted = ['token_embedder/embedding', relative,
            'encoder/layers_0/attention/query/kernel', 'decoder/layers_0/self_attention/query/kernel']
  missing = [name for name in wanted if name not in names]
  if missing:
    raise ValueError(f'{path} is not an encoder-decoder T5: it lacks {", ".join(missing)}.')
  shape = matrices(names, (*wanted, 'encoder/layers_0/mlp/wo/kernel'), path)
  vocab_size, width = shape['token_embedder/embedding']
  heads, buckets = shape[relative]
  gated = 'encoder/layers_0/mlp/wi_0/kernel' in names
  tied = 'decoder/logits_dense/kernel' not in names
  return T5Config(
    vocab_size=vocab_size, width=width, heads=heads,
    head_dim=shape['encoder/layers_0/attention/query/kernel'][1] // heads,
    mlp_dim=shape['encoder/layers_0/mlp/wo/kernel'][0], encoder_layers=count_layers(names, 'encoder', path),
    decoder_layers=count_layers(names, 'decoder', path), mlp_activations=('gelu', 'linear') if gated else ('relu',),
    tied=tied, scaled=tied, relative_buckets=buckets, layer_biases=relative == own)


def matrices(names: Names, wanted: Iterable[str], path: str) -> dict[str, tuple[int, int]]:
  """Returns the shapes of matrices of a T5X checkpoint.

  Raises:
    ValueError: one is missing, is not a matrix, or is empty.
  """
  found = {name: names.get(name, ((), None))[0] for name in wanted}
  wrong = [f'{name}: {tuple(shape)}' for name, shape in found.items() if len(shape) != 2 or 0 in shape]
  if wrong:
    raise ValueError(f'{path} is not a T5: expected matrices, found {", ".join(wrong)}. Copy the checkpoint again.')
  return found


def count_layers(names: Names, stack: str, path: str) -> int:
  """Returns the number of layers of a stack in a T5X checkpoint.

  Raises:
    ValueError: a layer is missing.
  """
  found = {match[1] for match in map(re.compile(rf'{stack}/layers_(\d+)/').match, names) if match}
  missing = next((i for i in range(len(found)) if str(i) not in found), None)
  if missing is not None:
    raise ValueError(f'{path} lacks {stack}/layers_{missing}, but has {len(found)} layers of the {stack}. Copy the '
                     'checkpoint again.')
  return len(found)


FAMILY = Family(
  name='t5', model_types=('t5', 'mt5', 'umt5'), architecture='T5ForConditionalGeneration', read=read, write=write,
  table=TABLE, module=T5, infer=infer, t5x_names={},
  required={'layer_norm_epsilon': 1e-6, 'decoder_start_token_id': 0},
  compared=('vocab_size', 'width', 'heads', 'head_dim', 'mlp_dim', 'encoder_layers', 'decoder_layers',
            'mlp_activations', 'tied', 'relative_buckets', 'relative_max_distance'),
  # T5 1.0's folders hold this table, but nothing has ever read it: cross-attention has no position biases.
  unread=(r'decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight',))
