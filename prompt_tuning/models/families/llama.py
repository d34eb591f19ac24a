"""Llama (Touvron et al. 2023): rotary positions, RMS norms, a gated MLP, grouped-query attention.

Most decoder-only families differ from it in a few values, and read its `config.json` with their defaults.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.files.json_files import Count, Fields, Layers, Positive, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families.activations import read_activation, write_activation
from prompt_tuning.models.families.rotary import read_rotary, write_length, write_rotary
from prompt_tuning.models.family import Family, divided, table

LOCAL, FULL = 'sliding_attention', 'full_attention'
TABLE = table('''
  token_embedder/embedding                                model.embed_tokens.weight
  decoder/layers_{i}/pre_self_attention_layer_norm/scale  model.layers.{i}.input_layernorm.weight
  decoder/layers_{i}/self_attention/query/kernel          model.layers.{i}.self_attn.q_proj.weight          T
  decoder/layers_{i}/self_attention/query/bias            model.layers.{i}.self_attn.q_proj.bias
  decoder/layers_{i}/self_attention/key/kernel            model.layers.{i}.self_attn.k_proj.weight          T
  decoder/layers_{i}/self_attention/key/bias              model.layers.{i}.self_attn.k_proj.bias
  decoder/layers_{i}/self_attention/value/kernel          model.layers.{i}.self_attn.v_proj.weight          T
  decoder/layers_{i}/self_attention/value/bias            model.layers.{i}.self_attn.v_proj.bias
  decoder/layers_{i}/self_attention/out/kernel            model.layers.{i}.self_attn.o_proj.weight          T
  decoder/layers_{i}/self_attention/out/bias              model.layers.{i}.self_attn.o_proj.bias
  decoder/layers_{i}/pre_mlp_layer_norm/scale             model.layers.{i}.post_attention_layernorm.weight
  decoder/layers_{i}/mlp/wi_0/kernel                      model.layers.{i}.mlp.gate_proj.weight             T
  decoder/layers_{i}/mlp/wi_0/bias                        model.layers.{i}.mlp.gate_proj.bias
  decoder/layers_{i}/mlp/wi_1/kernel                      model.layers.{i}.mlp.up_proj.weight               T
  decoder/layers_{i}/mlp/wi_1/bias                        model.layers.{i}.mlp.up_proj.bias
  decoder/layers_{i}/mlp/wo/kernel                        model.layers.{i}.mlp.down_proj.weight             T
  decoder/layers_{i}/mlp/wo/bias                          model.layers.{i}.mlp.down_proj.bias
  decoder/decoder_norm/scale                              model.norm.weight
  decoder/logits_dense/kernel                             lm_head.weight                                    T
''')


class Stored(Fields):
  """The fields of a `config.json` that this family and those like it read."""

  vocab_size: Size
  hidden_size: Size
  intermediate_size: Size
  num_hidden_layers: Layers
  num_attention_heads: Size
  num_key_value_heads: Size | None = None
  head_dim: Size | None = None
  hidden_act: str | None = None
  hidden_activation: str | None = None
  rms_norm_eps: Positive = 1e-6
  attention_bias: bool | None = None
  mlp_bias: bool | None = None
  layer_types: list[str] | None = None
  sliding_window: Count | None = None


def read(config: Mapping[str, Any], *, partial: bool = False) -> DecoderConfig:
  """Returns the config of a `config.json`; layers without a type see all positions.

  Args:
    config: the `config.json`.
    partial: a part of a head may be rotated.
  """
  stored = checked(config, Stored)
  layers, heads = stored.num_hidden_layers, stored.num_attention_heads
  kv_heads, kinds = stored.num_key_value_heads or heads, stored.layer_types or [FULL] * layers
  head_dim = stored.head_dim or divided(hidden_size=stored.hidden_size, num_attention_heads=heads)
  divided(num_attention_heads=heads, num_key_value_heads=kv_heads)
  unknown = [kind for kind in kinds if kind not in (LOCAL, FULL)]
  if unknown:
    raise ValueError(f'has a layer of the type {unknown[0]!r}; supported types are {LOCAL} and {FULL}.')
  if len(kinds) != layers:
    raise ValueError(f'sets layer_types for {len(kinds)} layers, but num_hidden_layers to {layers}. Download it again.')
  if LOCAL in kinds and not stored.sliding_window:
    raise ValueError(f'has layers of the type {LOCAL}, but sets sliding_window to {stored.sliding_window}: expected '
                     'the number of positions that they see. Download it again.')
  rotary = {kind: read_rotary(config, kind, head_dim) for kind in sorted(set(kinds))}
  shares = {each.share for each in rotary.values()}
  if len(shares) > 1 or (not partial and shares != {1.0}):
    supported = 'one value for all layers' if partial else '1.0'
    raise ValueError(f'sets partial_rotary_factor to {", ".join(map(str, sorted(shares)))}; the supported value is '
                     f'{supported}.')
  return DecoderConfig(
    layers=layers, width=stored.hidden_size, heads=heads, head_dim=head_dim, mlp_dim=stored.intermediate_size,
    kv_heads=kv_heads, vocab_size=stored.vocab_size,
    mlp_activations=(read_activation(stored.hidden_activation or stored.hidden_act or 'silu'), 'linear'),
    norm_epsilon=stored.rms_norm_eps, query_scale=head_dim**-0.5, mlp_bias=bool(stored.mlp_bias),
    projection_biases=('query', 'key', 'value', 'out') if stored.attention_bias else (),
    rotary=tuple(rotary[kind] for kind in kinds),
    windows=tuple(stored.sliding_window if kind == LOCAL else 0 for kind in kinds))


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  activation = write_activation(config.mlp_activations[0])
  return {
    'hidden_size': config.width, 'num_attention_heads': config.heads, 'num_key_value_heads': config.kv_heads,
    'head_dim': config.head_dim, 'num_hidden_layers': config.layers, 'intermediate_size': config.mlp_dim,
    'hidden_act': activation, 'hidden_activation': activation, 'rms_norm_eps': config.norm_epsilon,
    'attention_bias': bool(config.projection_biases), 'mlp_bias': config.mlp_bias,
    'sliding_window': max([0, *config.windows]) or None,
    'layer_types': [LOCAL if window else FULL for window in config.windows],
    'rope_parameters': next(map(write_rotary, filter(None, config.rotary)), {}), **write_length(config.rotary)}


def write_kinds(config: DecoderConfig) -> dict[str, Any]:
  """Returns the `rope_parameters` of a model whose kinds of layers differ in them."""
  return {'rope_parameters': {LOCAL if window else FULL: write_rotary(rotary)
                              for rotary, window in zip(config.rotary, config.windows, strict=True)}}


def typed(config: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
  """Returns a `config.json` with layer types: `kinds` if it has none, as before transformers 4.53."""
  return {**config, 'layer_types': config.get('layer_types') or list(kinds)}


# The language model of one that reads images, and what else such a folder holds.
WRAPPED = ('model.', '', 'language_model.model.', 'model.language_model.')
WRAPPED_TABLE = (*TABLE, *table('decoder/logits_dense/kernel  language_model.lm_head.weight  T'))
IMAGES = (r'(model\.)?(vision_tower|multi_modal_projector)\..*',)
# Of families like Llama, whose MLPs have no biases.
REQUIRED = {'mlp_bias': False, 'use_bidirectional_attention': False}
FAMILY = Family(
  name='llama', model_types=('llama',), architecture='LlamaForCausalLM', read=read, write=write, table=TABLE,
  prefixes=('model.', ''),  # the empty one: folders of the bare model, without the class of its output layer
  unread=(r'.*\.rotary_emb(_local)?\.inv_freq',), required={'use_bidirectional_attention': False})
