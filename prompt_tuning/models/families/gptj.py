"""GPT-J (Wang and Komatsuzaki 2021): attention and MLP in parallel after one norm; neighbours are rotated together."""

import math
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Layers, Positive, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families.activations import read_activation, write_activation
from prompt_tuning.models.family import Family, divided, table
from prompt_tuning.models.positions import Rotary

TABLE = table('''
  token_embedder/embedding                                transformer.wte.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/scale  transformer.h.{i}.ln_1.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/bias   transformer.h.{i}.ln_1.bias
  decoder/layers_{i}/self_attention/query/kernel          transformer.h.{i}.attn.q_proj.weight    T
  decoder/layers_{i}/self_attention/key/kernel            transformer.h.{i}.attn.k_proj.weight    T
  decoder/layers_{i}/self_attention/value/kernel          transformer.h.{i}.attn.v_proj.weight    T
  decoder/layers_{i}/self_attention/out/kernel            transformer.h.{i}.attn.out_proj.weight  T
  decoder/layers_{i}/mlp/wi/kernel                        transformer.h.{i}.mlp.fc_in.weight      T
  decoder/layers_{i}/mlp/wi/bias                          transformer.h.{i}.mlp.fc_in.bias
  decoder/layers_{i}/mlp/wo/kernel                        transformer.h.{i}.mlp.fc_out.weight     T
  decoder/layers_{i}/mlp/wo/bias                          transformer.h.{i}.mlp.fc_out.bias
  decoder/decoder_norm/scale                              transformer.ln_f.weight
  decoder/decoder_norm/bias                               transformer.ln_f.bias
  decoder/logits_dense/kernel                             lm_head.weight                          T
  decoder/logits_dense/bias                               lm_head.bias
''')


class Stored(Fields):
  """The fields of a `config.json` that this family reads."""

  vocab_size: Size
  n_embd: Size
  n_head: Size
  n_layer: Layers
  n_inner: Size | None = None
  rotary_dim: Size = 64
  activation_function: str = 'gelu_new'
  layer_norm_epsilon: Positive = 1e-5


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  head_dim, dims = divided(n_embd=stored.n_embd, n_head=stored.n_head), stored.rotary_dim
  if dims % 2 or dims > head_dim:
    raise ValueError(f'sets rotary_dim to {dims} for heads of width {head_dim}: expected an even number up to the '
                     'width. Download it again.')
  share = min(1.0, math.nextafter(dims / head_dim, 2))  # so that the product is not rounded to below `dims`
  return DecoderConfig(
    layers=stored.n_layer, width=stored.n_embd, heads=stored.n_head, head_dim=head_dim,
    mlp_dim=stored.n_inner or 4 * stored.n_embd, vocab_size=stored.vocab_size,
    mlp_activations=(read_activation(stored.activation_function),), norm='layer',
    norm_epsilon=stored.layer_norm_epsilon, parallel=True, shared_norm=True, mlp_bias=True, output_bias=True,
    query_scale=head_dim**-0.5, rotary=(Rotary(share=share),) * stored.n_layer, rotary_neighbours=True)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return {
    'n_embd': config.width, 'n_head': config.heads, 'n_layer': config.layers, 'n_inner': config.mlp_dim,
    'rotary_dim': config.rotary[0].dims(config.head_dim), 'layer_norm_epsilon': config.norm_epsilon,
    'activation_function': write_activation(config.mlp_activations[0])}


FAMILY = Family(
  name='gptj', model_types=('gptj',), architecture='GPTJForCausalLM', read=read, write=write, table=TABLE,
  prefixes=('transformer.', ''), unread=(r'(.*\.)?h\.\d+\.attn\.(bias|masked_bias|embed_positions)',))
