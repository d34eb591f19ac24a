"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, biases; query, key and value share one array."""

from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Layers, Positive, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families.activations import read_activation, write_activation
from prompt_tuning.models.family import Family, divided, table

TABLE = table('''
  token_embedder/embedding                                transformer.wte.weight
  position_embedder/embedding                             transformer.wpe.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/scale  transformer.h.{i}.ln_1.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/bias   transformer.h.{i}.ln_1.bias
  decoder/layers_{i}/self_attention/query/kernel          transformer.h.{i}.attn.c_attn.weight[0/3]
  decoder/layers_{i}/self_attention/query/bias            transformer.h.{i}.attn.c_attn.bias[0/3]
  decoder/layers_{i}/self_attention/key/kernel            transformer.h.{i}.attn.c_attn.weight[1/3]
  decoder/layers_{i}/self_attention/key/bias              transformer.h.{i}.attn.c_attn.bias[1/3]
  decoder/layers_{i}/self_attention/value/kernel          transformer.h.{i}.attn.c_attn.weight[2/3]
  decoder/layers_{i}/self_attention/value/bias            transformer.h.{i}.attn.c_attn.bias[2/3]
  decoder/layers_{i}/self_attention/out/kernel            transformer.h.{i}.attn.c_proj.weight
  decoder/layers_{i}/self_attention/out/bias              transformer.h.{i}.attn.c_proj.bias
  decoder/layers_{i}/pre_mlp_layer_norm/scale             transformer.h.{i}.ln_2.weight
  decoder/layers_{i}/pre_mlp_layer_norm/bias              transformer.h.{i}.ln_2.bias
  decoder/layers_{i}/mlp/wi/kernel                        transformer.h.{i}.mlp.c_fc.weight
  decoder/layers_{i}/mlp/wi/bias                          transformer.h.{i}.mlp.c_fc.bias
  decoder/layers_{i}/mlp/wo/kernel                        transformer.h.{i}.mlp.c_proj.weight
  decoder/layers_{i}/mlp/wo/bias                          transformer.h.{i}.mlp.c_proj.bias
  decoder/decoder_norm/scale                              transformer.ln_f.weight
  decoder/decoder_norm/bias                               transformer.ln_f.bias
  decoder/logits_dense/kernel                             lm_head.weight                          T
''')


class Stored(Fields):
  """The fields of a `config.json` that this family reads."""

  vocab_size: Size
  n_embd: Size
  n_head: Size
  n_layer: Layers
  n_positions: Size
  n_inner: Size | None = None
  activation_function: str = 'gelu_new'
  layer_norm_epsilon: Positive = 1e-5
  initializer_range: Positive = 0.02


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  head_dim = divided(n_embd=stored.n_embd, n_head=stored.n_head)
  return DecoderConfig(
    layers=stored.n_layer, width=stored.n_embd, heads=stored.n_head, head_dim=head_dim,
    mlp_dim=stored.n_inner or 4 * stored.n_embd, vocab_size=stored.vocab_size,
    mlp_activations=(read_activation(stored.activation_function),), norm='layer',
    norm_epsilon=stored.layer_norm_epsilon, bias=True, query_scale=head_dim**-0.5,
    initial_scale=stored.initializer_range, position_count=stored.n_positions)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return {
    'n_embd': config.width, 'n_head': config.heads, 'n_layer': config.layers, 'n_inner': config.mlp_dim,
    'n_positions': config.position_count, 'activation_function': write_activation(config.mlp_activations[0]),
    'layer_norm_epsilon': config.norm_epsilon}


FAMILY = Family(
  name='gpt2', model_types=('gpt2',), architecture='GPT2LMHeadModel', read=read, write=write, table=TABLE,
  prefixes=('transformer.', ''),  # the empty one: folders of the bare model, without the class of its output layer
  unread=(r'(.*\.)?h\.\d+\.attn\.(bias|masked_bias)',),
  required={'scale_attn_by_inverse_layer_idx': False, 'add_cross_attention': False, 'scale_attn_weights': True})
