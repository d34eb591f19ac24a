"""ModernBERT (Warner et al. 2024): rotary positions, gated MLPs, norms before each layer's parts, local attention.

Every few layers see the whole text, the others a window around each position; the two kinds have their own rotary
bases. The first layer's attention has no norm. The head reads the first position or the mean over all, a prompt
included, through a dense layer, an activation and a norm.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from prompt_tuning.checkpoints.constants import Constants
from prompt_tuning.checkpoints.loading import Reader
from prompt_tuning.files.json_files import Count, Fields, Layers, Positive, Size, checked
from prompt_tuning.models.encoder_config import EncoderConfig
from prompt_tuning.models.encoder_family import EncoderFamily
from prompt_tuning.models.families.activations import read_activation, write_activation
from prompt_tuning.models.families.llama import FULL, LOCAL, write_kinds
from prompt_tuning.models.families.rotary import read_rotary, write_length
from prompt_tuning.models.family import divided, table
from prompt_tuning.types import Flat, Params

TABLE = table('''
  token_embedder/embedding  model.embeddings.tok_embeddings.weight
  embedding_norm/scale      model.embeddings.norm.weight
  embedding_norm/bias       model.embeddings.norm.bias
  decoder/layers_{i}/pre_attention_layer_norm/scale  model.layers.{i}.attn_norm.weight
  decoder/layers_{i}/pre_attention_layer_norm/bias   model.layers.{i}.attn_norm.bias
  decoder/layers_{i}/attention/query/kernel          model.layers.{i}.attn.Wqkv.weight[0/3]  T
  decoder/layers_{i}/attention/key/kernel            model.layers.{i}.attn.Wqkv.weight[1/3]  T
  decoder/layers_{i}/attention/value/kernel          model.layers.{i}.attn.Wqkv.weight[2/3]  T
  decoder/layers_{i}/attention/query/bias            model.layers.{i}.attn.Wqkv.bias[0/3]
  decoder/layers_{i}/attention/key/bias              model.layers.{i}.attn.Wqkv.bias[1/3]
  decoder/layers_{i}/attention/value/bias            model.layers.{i}.attn.Wqkv.bias[2/3]
  decoder/layers_{i}/attention/out/kernel            model.layers.{i}.attn.Wo.weight         T
  decoder/layers_{i}/attention/out/bias              model.layers.{i}.attn.Wo.bias
  decoder/layers_{i}/pre_mlp_layer_norm/scale        model.layers.{i}.mlp_norm.weight
  decoder/layers_{i}/pre_mlp_layer_norm/bias         model.layers.{i}.mlp_norm.bias
  decoder/layers_{i}/mlp/wi_0/kernel                 model.layers.{i}.mlp.Wi.weight[0/2]     T
  decoder/layers_{i}/mlp/wi_1/kernel                 model.layers.{i}.mlp.Wi.weight[1/2]     T
  decoder/layers_{i}/mlp/wi_0/bias                   model.layers.{i}.mlp.Wi.bias[0/2]
  decoder/layers_{i}/mlp/wi_1/bias                   model.layers.{i}.mlp.Wi.bias[1/2]
  decoder/layers_{i}/mlp/wo/kernel                   model.layers.{i}.mlp.Wo.weight          T
  decoder/layers_{i}/mlp/wo/bias                     model.layers.{i}.mlp.Wo.bias
  decoder/decoder_norm/scale   model.final_norm.weight
  decoder/decoder_norm/bias    model.final_norm.bias
  pooler/kernel                head.dense.weight   T
  pooler/bias                  head.dense.bias
  pooler_norm/scale            head.norm.weight
  pooler_norm/bias             head.norm.bias
  decoder/logits_dense/kernel  classifier.weight   T
  decoder/logits_dense/bias    classifier.bias
  mask_head/dense/kernel       head.dense.weight   T
  mask_head/dense/bias         head.dense.bias
  mask_head/norm/scale         head.norm.weight
  mask_head/norm/bias          head.norm.bias
  mask_head/bias               decoder.bias
  token_embedder/embedding     decoder.weight
''')
_POOLINGS = {'cls': 'cls', 'mean': 'all'}
_THETAS = {FULL: ('global_rope_theta', 160000.0), LOCAL: ('local_rope_theta', 10000.0)}


class Stored(Fields):
  """The fields of a `config.json` that this family reads."""

  vocab_size: Size
  hidden_size: Size
  intermediate_size: Size
  num_hidden_layers: Layers
  num_attention_heads: Size
  hidden_activation: str = 'gelu'
  norm_eps: Positive = 1e-5
  norm_bias: bool = False
  attention_bias: bool = False
  mlp_bias: bool = False
  layer_types: list[str] | None = None
  global_attn_every_n_layers: Size = 3
  local_attention: Count = 128
  rope_parameters: dict[str, Any] | None = None
  rope_scaling: dict[str, Any] | None = None
  global_rope_theta: Positive | None = None
  local_rope_theta: Positive | None = None
  classifier_pooling: Literal['cls', 'mean'] = 'cls'
  classifier_bias: bool = False
  classifier_activation: str = 'gelu'


def read(config: Mapping[str, Any]) -> EncoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  head_dim = divided(hidden_size=stored.hidden_size, num_attention_heads=stored.num_attention_heads)
  kinds = stored.layer_types or [LOCAL if i % stored.global_attn_every_n_layers else FULL
                                 for i in range(stored.num_hidden_layers)]
  unknown = [kind for kind in kinds if kind not in (LOCAL, FULL)]
  if unknown or len(kinds) != stored.num_hidden_layers:
    found = f'the type {unknown[0]!r}' if unknown else f'{len(kinds)} types'
    raise ValueError(f'sets layer_types to {found} for {stored.num_hidden_layers} layers; supported is {LOCAL} or '
                     f'{FULL} for each. Download it again.')
  rotary = {kind: _rotary(config, stored, kind, head_dim) for kind in sorted(set(kinds))}
  windows = tuple(stored.local_attention // 2 + 1 if kind == LOCAL else 0 for kind in kinds)
  return EncoderConfig(
    layers=stored.num_hidden_layers, width=stored.hidden_size, heads=stored.num_attention_heads, head_dim=head_dim,
    mlp_dim=stored.intermediate_size, vocab_size=stored.vocab_size,
    mlp_activations=(read_activation(stored.hidden_activation), 'linear'), norm='layer', norm_bias=stored.norm_bias,
    norm_epsilon=stored.norm_eps, embedding_norm=True, plain_start=True, query_scale=head_dim**-0.5,
    projection_biases=('query', 'key', 'value', 'out') if stored.attention_bias else (), mlp_bias=stored.mlp_bias,
    rotary=tuple(rotary[kind] for kind in kinds),
    windows=windows, windows_ahead=windows,
    pooling=_POOLINGS[stored.classifier_pooling], pooler=read_activation(stored.classifier_activation),
    pooler_norm=True, pooler_bias=stored.classifier_bias,
    mask_activation=read_activation(stored.classifier_activation))


def _rotary(config: Mapping[str, Any], stored: Stored, kind: str, head_dim: int) -> Any:
  """Returns the rotary positions of layers of a kind; before transformers 5, each kind's base had a field."""
  name, usual = _THETAS[kind]
  given = (stored.rope_parameters or {}).get(kind) or stored.rope_scaling or {}
  base = getattr(stored, name) or usual
  return read_rotary({**config, 'rope_parameters': {kind: {'rope_theta': base, **given}}}, kind, head_dim)


def write(config: EncoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return {
    'hidden_size': config.width, 'intermediate_size': config.mlp_dim, 'num_hidden_layers': config.layers,
    'num_attention_heads': config.heads, 'hidden_activation': write_activation(config.mlp_activations[0]),
    'norm_eps': config.norm_epsilon, 'norm_bias': config.norm_bias, 'attention_bias': bool(config.projection_biases),
    'mlp_bias': config.mlp_bias, 'layer_types': [LOCAL if window else FULL for window in config.windows],
    'local_attention': 2 * (max(2, *config.windows) - 1), 'classifier_bias': config.pooler_bias,
    'classifier_pooling': 'mean' if config.pooling in ('mean', 'all') else 'cls',
    **({'classifier_activation': write_activation(config.pooler or config.mask_activation)}
       if config.pooler or config.mask_activation else {}),
    **write_kinds(config), **write_length(config.rotary)}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ModernBertFamily(EncoderFamily):
  """The family: the first layer's attention has no norm, but its layers are stacked with others that have."""

  def parts(self, reader: Reader, config: EncoderConfig) -> Reader:
    """Returns the reader of a folder, with parameters of that norm, which nothing reads."""
    return Constants(super().parts(reader, config), {name: ((config.width,), value) for name, value in
                                                     _unread_norm(config).items()})

  def named(self, params: Params, config: EncoderConfig) -> Flat:
    """Returns the arrays of a folder, without that norm."""
    unread = _unread_norm(config)
    return {name: array for name, array in super().named(params, config).items() if name not in unread}


def _unread_norm(config: EncoderConfig) -> dict[str, float]:
  """Returns the names of the parameters of the first layer's norm of attention, with their values."""
  name = 'model.layers.0.attn_norm'
  return {f'{name}.weight': 1.0} | ({f'{name}.bias': 0.0} if config.norm_bias else {})


FAMILY = ModernBertFamily(
  name='modernbert', model_types=('modernbert',), architecture='ModernBertForSequenceClassification', read=read,
  write=write, table=TABLE, prefixes=('model.', ''), poolings=('cls', 'mean', 'all'))
