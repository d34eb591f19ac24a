"""Gemma 4 (Gemma Team 2026), dense, text: Gemma 3 with layers of two shapes, shared keys and values, layer embeddings.

Layers that see all positions have other heads than those with a window; the last layers may read the keys and values of
earlier ones. From a multimodal folder, only the language model is read.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.files.json_files import Count, Fields, Positive, Size, checked, shown
from prompt_tuning.models.attention_shape import AttentionShape
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import gemma3, llama
from prompt_tuning.models.families.rotary import read_rotary, write_rotary
from prompt_tuning.models.family import divided, table
from prompt_tuning.models.positions import Rotary
from prompt_tuning.models.rotary_scaling import Proportional

TABLE = (*gemma3.TABLE, *table('''
  decoder/layers_{i}/embedding_gate/kernel            model.layers.{i}.per_layer_input_gate.weight  T
  decoder/layers_{i}/embedding_out/kernel             model.layers.{i}.per_layer_projection.weight  T
  decoder/layers_{i}/post_embedding_layer_norm/scale  model.layers.{i}.post_per_layer_input_norm.weight
  decoder/layers_{i}/output_scale                     model.layers.{i}.layer_scalar
  layer_embeddings/token_embedder/embedding           model.embed_tokens_per_layer.weight
  layer_embeddings/projection/kernel                  model.per_layer_model_projection.weight       T
  layer_embeddings/norm/scale                         model.per_layer_projection_norm.weight
'''))
ROTARY = {llama.LOCAL: {'rope_type': 'default', 'rope_theta': 1e4},
          llama.FULL: {'rope_type': 'proportional', 'rope_theta': 1e6, 'partial_rotary_factor': 0.25}}
_HEADS = ('head_dim', 'num_key_value_heads')  # what `per_layer_config` may set


class Stored(llama.Stored, kw_only=True):
  """The fields of a `config.json` that this family reads."""

  num_key_value_heads: Size
  head_dim: Size
  global_head_dim: Size | None = None
  num_global_key_value_heads: Size | None = None
  per_layer_config: dict[str, dict[str, Any]] | None = None
  rope_parameters: dict[str, dict[str, Any]] | None = None
  attention_k_eq_v: bool | None = None
  num_kv_shared_layers: Count | None = None
  use_double_wide_mlp: bool | None = None
  hidden_size_per_layer_input: Count | None = None
  vocab_size_per_layer_input: Size | None = None
  final_logit_softcapping: Positive | None = None


class _Heads(Fields):
  head_dim: Size | None = None
  num_key_value_heads: Size | None = None


class _Proportional(Fields):
  rope_theta: Positive
  partial_rotary_factor: Positive | None = None
  factor: Positive | None = None


def read(config: Mapping[str, Any]) -> DecoderConfig:
  """Returns the config of a `config.json`; without layer types, every sixth layer sees all positions, and the last."""
  stored = checked(config, Stored)
  layers, shared = stored.num_hidden_layers, stored.num_kv_shared_layers or 0
  kinds = list(stored.layer_types or [llama.FULL if i % 6 == 5 else llama.LOCAL for i in range(layers)])
  kinds[-1] = llama.FULL  # as transformers reads it
  found = llama.read({**config, 'layer_types': kinds, 'rope_parameters': None, 'rope_scaling': None,
                      'partial_rotary_factor': None})
  if shared and {*kinds} != {*kinds[:max(layers - shared, 0)]}:
    raise ValueError(f'sets num_kv_shared_layers to {shared} of {layers} layers; expected fewer, with a layer of each '
                     'type before them, whose keys and values they read. Download it again.')
  wide = _wide(stored, kinds)
  rope = stored.rope_parameters or ROTARY
  rotary = {kind: _read_rotary(rope[kind], kind, found.head_dim if kind == llama.LOCAL else wide.head_dim)
            for kind in sorted(set(kinds))}
  embedding, words = stored.hidden_size_per_layer_input or 0, stored.vocab_size_per_layer_input or found.vocab_size
  if embedding and words < found.vocab_size:
    raise ValueError(f'sets vocab_size_per_layer_input to {words}, but vocab_size to {found.vocab_size}: every token '
                     'needs an embedding for the layers. Download it again.')
  differs = shared or wide != AttentionShape(found.head_dim, found.kv_heads)
  return dataclasses.replace(
    found, query_scale=1.0, query_norms=True, value_norms=True, post_norms=True, output_scales=True,
    embedding_scale=found.width**0.5, output_cap=stored.final_logit_softcapping or 0.0,
    rotary=tuple(rotary[kind] for kind in kinds), wide=wide if differs else None,
    wide_layers=tuple(kind == llama.FULL for kind in kinds) if differs else (), shared_layers=shared,
    shared_mlp_dim=2 * found.mlp_dim if shared and stored.use_double_wide_mlp else 0,
    layer_embedding=embedding, layer_vocab_size=words if embedding else 0)


def _wide(stored: Stored, kinds: Sequence[str]) -> AttentionShape:
  """Returns the shape of attention in layers that see all positions."""
  heads = {'head_dim': stored.head_dim, 'num_key_value_heads': stored.num_key_value_heads}
  if stored.per_layer_config is None:
    heads['head_dim'] = stored.global_head_dim or 512
    if stored.attention_k_eq_v and stored.num_global_key_value_heads:
      heads['num_key_value_heads'] = stored.num_global_key_value_heads
  elif stored.per_layer_config:
    given, full = stored.per_layer_config, {str(i) for i, kind in enumerate(kinds) if kind == llama.FULL}
    first, *others = given.values()
    if given.keys() != full or any(each != first for each in others) or not first.keys() <= {*_HEADS}:
      raise ValueError(f'sets per_layer_config to {shown(dict(given))}; expected the same {" and ".join(_HEADS)} for '
                       f'every layer of the type {llama.FULL}, and nothing for others. Choose a dense Gemma 4.')
    found = checked(first, _Heads)
    heads |= {name: getattr(found, name) for name in _HEADS if getattr(found, name)}
  divided(num_attention_heads=stored.num_attention_heads, num_key_value_heads=heads['num_key_value_heads'])
  return AttentionShape(heads['head_dim'], heads['num_key_value_heads'], bool(stored.attention_k_eq_v))


def _read_rotary(given: Mapping[str, Any], kind: str, head_dim: int) -> Rotary:
  if given.get('rope_type') != 'proportional':
    found = read_rotary({'rope_parameters': {kind: given}}, kind, head_dim)
    if found.share != 1.0:
      raise ValueError(f'sets partial_rotary_factor to {found.share} for {kind}; the supported value is 1.0, or the '
                       "rope_type 'proportional'.")
    return found
  stored = checked(given, _Proportional)
  part = stored.partial_rotary_factor or 1.0
  if part > 1.0 or head_dim % 2:
    raise ValueError(f'sets partial_rotary_factor to {part!r} and has heads of width {head_dim}: expected at most 1.0, '
                     'the whole head, and an even width. Download it again.')
  return Proportional(stored.rope_theta, stored.factor or 1.0, rotated=part)


def write(config: DecoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  written = llama.write(config)
  wide = config.wide or AttentionShape(config.head_dim, config.kv_heads)
  heads = {'head_dim': wide.head_dim, 'num_key_value_heads': wide.kv_heads}
  kinds = written['layer_types']
  return written | {
    'rope_parameters': {kind: _write_rotary(rotary) for kind, rotary in zip(kinds, config.rotary, strict=True)},
    'per_layer_config': {str(i): heads for i, kind in enumerate(kinds) if kind == llama.FULL},
    'global_head_dim': wide.head_dim, 'num_global_key_value_heads': wide.kv_heads,
    'attention_k_eq_v': wide.keys_are_values, 'num_kv_shared_layers': config.shared_layers,
    'use_double_wide_mlp': config.shared_mlp_dim > 0, 'hidden_size_per_layer_input': config.layer_embedding,
    'vocab_size_per_layer_input': config.layer_vocab_size or config.vocab_size,
    'final_logit_softcapping': config.output_cap or None, 'enable_moe_block': False}


def _write_rotary(rotary: Rotary) -> dict[str, Any]:
  if not isinstance(rotary, Proportional):
    return write_rotary(rotary)
  found = {'rope_type': 'proportional', 'rope_theta': rotary.base, 'partial_rotary_factor': rotary.rotated}
  return found if rotary.factor == 1.0 else found | {'factor': rotary.factor}


def _unread_of(config: DecoderConfig) -> tuple[str, ...]:
  """Returns the names of projections of layers that share keys and values: published folders have them."""
  layers = '|'.join(map(str, range(config.layers - config.shared_layers, config.layers)))
  return (rf'.*layers\.({layers})\.self_attn\.[kv]_(proj|norm)\..*',) if layers else ()


FAMILY = dataclasses.replace(
  llama.FAMILY, name='gemma4', model_types=('gemma4_text', 'gemma4'), architecture='Gemma4ForCausalLM', read=read,
  write=write, table=TABLE, prefixes=llama.WRAPPED, unread_of=_unread_of,
  unread=(*llama.FAMILY.unread, r'(model\.)?(vision_tower|audio_tower|embed_vision|embed_audio)\..*'),
  # Texts are read in their order also where images would not be ('vision').
  required={'mlp_bias': False, 'use_bidirectional_attention': 'vision', 'enable_moe_block': False, 'num_experts': None,
            'top_k_experts': None, 'moe_intermediate_size': None},
  defaults={'head_dim': 256, 'num_attention_heads': 8, 'num_key_value_heads': 4, 'sliding_window': 512,
            'hidden_activation': 'gelu_pytorch_tanh', 'hidden_size_per_layer_input': 256})
