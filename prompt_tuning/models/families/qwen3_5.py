"""Qwen 3.5 (Qwen Team 2026), text: three Gated DeltaNet layers to each layer with gated attention, see `groups`.

From a multimodal folder, only the language model is read. Its rotary positions have sections for time, height and width
(`mrope_section`), which are equal for text.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Size, checked
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.delta_shape import DeltaShape
from prompt_tuning.models.families import llama
from prompt_tuning.models.family import divided, table

DELTA = 'linear_attention'
_QUERY = 'decoder/layers_{i}/self_attention/query/'
TABLE = (*(rule for rule in llama.TABLE if not rule.ours.startswith(_QUERY)), *table('''
  decoder/layers_{i}/self_attention/query/kernel        model.layers.{i}.self_attn.q_proj.weight[0/2:heads]  T
  decoder/layers_{i}/self_attention/query/bias          model.layers.{i}.self_attn.q_proj.bias[0/2:heads]
  decoder/layers_{i}/self_attention/gate/kernel         model.layers.{i}.self_attn.q_proj.weight[1/2:heads]  T
  decoder/layers_{i}/self_attention/gate/bias           model.layers.{i}.self_attn.q_proj.bias[1/2:heads]
  decoder/layers_{i}/self_attention/query_norm/scale    model.layers.{i}.self_attn.q_norm.weight
  decoder/layers_{i}/self_attention/key_norm/scale      model.layers.{i}.self_attn.k_norm.weight
  decoder/layers_{i}/pre_delta_attention_layer_norm/scale  model.layers.{i}.input_layernorm.weight
  decoder/layers_{i}/delta_attention/query/kernel          model.layers.{i}.linear_attn.in_proj_qkv.weight[0/3:delta]  T
  decoder/layers_{i}/delta_attention/key/kernel            model.layers.{i}.linear_attn.in_proj_qkv.weight[1/3:delta]  T
  decoder/layers_{i}/delta_attention/value/kernel          model.layers.{i}.linear_attn.in_proj_qkv.weight[2/3:delta]  T
  decoder/layers_{i}/delta_attention/query_taps            model.layers.{i}.linear_attn.conv1d.weight[0/3:delta]  T
  decoder/layers_{i}/delta_attention/key_taps              model.layers.{i}.linear_attn.conv1d.weight[1/3:delta]  T
  decoder/layers_{i}/delta_attention/value_taps            model.layers.{i}.linear_attn.conv1d.weight[2/3:delta]  T
  decoder/layers_{i}/delta_attention/gate/kernel           model.layers.{i}.linear_attn.in_proj_z.weight  T
  decoder/layers_{i}/delta_attention/rate/kernel           model.layers.{i}.linear_attn.in_proj_b.weight  T
  decoder/layers_{i}/delta_attention/decay/kernel          model.layers.{i}.linear_attn.in_proj_a.weight  T
  decoder/layers_{i}/delta_attention/decay/bias            model.layers.{i}.linear_attn.dt_bias
  decoder/layers_{i}/delta_attention/log_decay             model.layers.{i}.linear_attn.A_log
  decoder/layers_{i}/delta_attention/norm/scale            model.layers.{i}.linear_attn.norm.weight
  decoder/layers_{i}/delta_attention/out/kernel            model.layers.{i}.linear_attn.out_proj.weight  T
'''))


class Stored(Fields):
  """The fields of a `config.json` that this family reads in addition to Llama."""

  num_hidden_layers: Size
  linear_num_key_heads: Size
  linear_num_value_heads: Size
  linear_key_head_dim: Size
  linear_value_head_dim: Size
  linear_conv_kernel_dim: Size
  layer_types: list[str] | None = None
  full_attention_interval: Size | None = None


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`; without layer types, every fourth layer has attention."""
  stored = checked(config, Stored)
  every = stored.full_attention_interval or 4
  kinds = stored.layer_types or [DELTA if (i + 1) % every else llama.FULL for i in range(stored.num_hidden_layers)]
  unknown = [kind for kind in kinds if kind not in (DELTA, llama.FULL)]
  if unknown or len(set(kinds)) == 1:
    raise ValueError(f'has layers of the types {", ".join(sorted(set(kinds)))}; expected {DELTA} and {llama.FULL}, at '
                     'least one of each.')
  divided(linear_num_value_heads=stored.linear_num_value_heads, linear_num_key_heads=stored.linear_num_key_heads)
  found = llama.read({**config, 'layer_types': [llama.FULL] * len(kinds)}, partial=True)
  return dataclasses.replace(
    found, norm_offset=1.0, query_norms=True, output_gate=True, windows=(),
    rotary=tuple(None if kind == DELTA else rotary for kind, rotary in zip(kinds, found.rotary, strict=True)),
    projection_biases=(*found.projection_biases, 'gate') if found.projection_biases else (),
    delta_layers=tuple(kind == DELTA for kind in kinds),
    delta=DeltaShape(stored.linear_num_key_heads, stored.linear_num_value_heads, stored.linear_key_head_dim,
                     stored.linear_value_head_dim, stored.linear_conv_kernel_dim))


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  shape = config.delta
  written = llama.write(config) | {
    'layer_types': [DELTA if delta else llama.FULL for delta in config.delta_layers],
    'linear_num_key_heads': shape.key_heads, 'linear_num_value_heads': shape.value_heads,
    'linear_key_head_dim': shape.key_dim, 'linear_value_head_dim': shape.value_dim,
    'linear_conv_kernel_dim': shape.taps}
  del written['sliding_window']
  return written


FAMILY = dataclasses.replace(
  llama.FAMILY, name='qwen3_5', model_types=('qwen3_5_text', 'qwen3_5'), architecture='Qwen3_5ForCausalLM', read=read,
  write=write, table=TABLE, prefixes=llama.WRAPPED,
  unread=(*llama.FAMILY.unread, r'(model\.)?visual\..*', r'mtp\..*'),
  required={**llama.REQUIRED, 'hidden_act': 'silu', 'attn_output_gate': True},
  defaults={'num_key_value_heads': 4, 'head_dim': 256, 'partial_rotary_factor': 0.25, 'linear_conv_kernel_dim': 4,
            'linear_key_head_dim': 128, 'linear_value_head_dim': 128, 'linear_num_key_heads': 16,
            'linear_num_value_heads': 32})
