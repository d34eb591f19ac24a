"""GPT-Neo (Black et al. 2021): GPT-2 with separate projections, unscaled queries, and windows in every other layer."""

from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Layers, Positive, Size, checked, shown
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families.activations import read_activation, write_activation
from prompt_tuning.models.family import Family, divided, table

GLOBAL, LOCAL = 'global', 'local'
TABLE = table('''
  token_embedder/embedding                                transformer.wte.weight
  position_embedder/embedding                             transformer.wpe.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/scale  transformer.h.{i}.ln_1.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/bias   transformer.h.{i}.ln_1.bias
  decoder/layers_{i}/self_attention/query/kernel          transformer.h.{i}.attn.attention.q_proj.weight    T
  decoder/layers_{i}/self_attention/key/kernel            transformer.h.{i}.attn.attention.k_proj.weight    T
  decoder/layers_{i}/self_attention/value/kernel          transformer.h.{i}.attn.attention.v_proj.weight    T
  decoder/layers_{i}/self_attention/out/kernel            transformer.h.{i}.attn.attention.out_proj.weight  T
  decoder/layers_{i}/self_attention/out/bias              transformer.h.{i}.attn.attention.out_proj.bias
  decoder/layers_{i}/pre_mlp_layer_norm/scale             transformer.h.{i}.ln_2.weight
  decoder/layers_{i}/pre_mlp_layer_norm/bias              transformer.h.{i}.ln_2.bias
  decoder/layers_{i}/mlp/wi/kernel                        transformer.h.{i}.mlp.c_fc.weight                 T
  decoder/layers_{i}/mlp/wi/bias                          transformer.h.{i}.mlp.c_fc.bias
  decoder/layers_{i}/mlp/wo/kernel                        transformer.h.{i}.mlp.c_proj.weight               T
  decoder/layers_{i}/mlp/wo/bias                          transformer.h.{i}.mlp.c_proj.bias
  decoder/decoder_norm/scale                              transformer.ln_f.weight
  decoder/decoder_norm/bias                               transformer.ln_f.bias
  decoder/logits_dense/kernel                             lm_head.weight                                    T
''')


class Stored(Fields):
  """The fields of a `config.json` that this family reads."""

  vocab_size: Size
  hidden_size: Size
  num_layers: Layers
  num_heads: Size
  max_position_embeddings: Size
  intermediate_size: Size | None = None
  window_size: Size = 256
  attention_types: list[tuple[list[str], Layers]] | None = None
  activation_function: str = 'gelu_new'
  layer_norm_epsilon: Positive = 1e-5


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  types = stored.attention_types or [([GLOBAL, LOCAL], 12)]
  kinds = [kind for group, count in types for kind in group * count]
  if config.get('attention_layers') not in (None, kinds):
    raise ValueError(f'sets attention_layers to {shown(config["attention_layers"])}, but attention_types to others. '
                     'Download it again.')
  if len(kinds) != stored.num_layers or not {*kinds} <= {GLOBAL, LOCAL}:
    raise ValueError(f'sets attention_types to {shown(config.get("attention_types"))}: expected {GLOBAL!r} or '
                     f'{LOCAL!r} for each of {stored.num_layers} layers. Download it again.')
  return DecoderConfig(
    layers=stored.num_layers, width=stored.hidden_size, heads=stored.num_heads,
    head_dim=divided(hidden_size=stored.hidden_size, num_heads=stored.num_heads),
    mlp_dim=stored.intermediate_size or 4 * stored.hidden_size, vocab_size=stored.vocab_size,
    mlp_activations=(read_activation(stored.activation_function),), norm='layer',
    norm_epsilon=stored.layer_norm_epsilon, mlp_bias=True, projection_biases=('out',),
    position_count=stored.max_position_embeddings,
    windows=tuple(stored.window_size if kind == LOCAL else 0 for kind in kinds))


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  windows = config.windows or (0,) * config.layers
  return {
    'hidden_size': config.width, 'num_layers': config.layers, 'num_heads': config.heads,
    'intermediate_size': config.mlp_dim, 'max_position_embeddings': config.position_count,
    'window_size': max(windows) or 256, 'attention_types': [[[LOCAL if each else GLOBAL], 1] for each in windows],
    'activation_function': write_activation(config.mlp_activations[0]), 'layer_norm_epsilon': config.norm_epsilon}


FAMILY = Family(
  name='gpt_neo', model_types=('gpt_neo',), architecture='GPTNeoForCausalLM', read=read, write=write, table=TABLE,
  prefixes=('transformer.', ''), unread=(r'(.*\.)?h\.\d+\.attn\.attention\.(bias|masked_bias)',))
