"""The `config.json` that a GGUF file stands for: its metadata under the names of transformers.

llama.cpp's architectures `llama` (Llama, SmolLM, Mistral), `qwen2`, `qwen3`, `gemma2` and `gemma3` are read. A key of
the architecture that is not listed here would change the model: it is an error.
"""

from typing import Any

from prompt_tuning.files.gguf_file import GgufFile
from prompt_tuning.files.json_files import Count, Fields, Layers, Positive, Size, fields_of, shown

EMBEDDING, OUTPUT, ROPE_FACTORS = 'token_embd.weight', 'output.weight', 'rope_freqs.weight'
# Architecture -> the keys that it has in addition to those of all.
ARCHITECTURES = {
  'llama': ('attention.sliding_window',),
  'qwen2': (),
  'qwen3': (),
  'gemma2': ('attention.sliding_window', 'attn_logit_softcapping', 'final_logit_softcapping', 'attention.scale'),
  'gemma3': ('attention.sliding_window', 'attention.sliding_window_pattern', 'final_logit_softcapping',
             'attention.scale', 'rope.freq_base_swa'),
}
# Keys that change nothing with these values; () stands for any.
_NEUTRAL = {
  'vocab_size': (), 'rope.scaling.finetuned': (), 'attention.causal': (True,), 'use_parallel_residual': (False,),
  'expert_count': (0,), 'expert_used_count': (0,), 'pooling_type': (0,),
  'tensor_data_layout': ('Meta AI original pth',), 'attention.clamp_kqv': (0.0,), 'attention.max_alibi_bias': (0.0,),
  'rope.scaling.attn_factor': (1.0,), 'rope.scaling.yarn_attn_factor': (1.0,), 'rope.scaling.yarn_ext_factor': (1.0,),
  'rope.scaling.yarn_log_multiplier': (0.0,), 'leading_dense_block_count': (0,), 'nextn_predict_layers': (0,)}
# The layers of the one size of each family whose queries are scaled by width / heads instead of the heads' width.
_SCALED_BY_WIDTH = {'gemma2': 46, 'gemma3': 62}
_GEMMA3_LOCAL_BASE = 10000.0


class _Model(Fields, rename={
    'layers': 'block_count', 'width': 'embedding_length', 'mlp_dim': 'feed_forward_length', 'longest': 'context_length',
    'heads': 'attention.head_count', 'kv_heads': 'attention.head_count_kv', 'key_dim': 'attention.key_length',
    'value_dim': 'attention.value_length', 'epsilon': 'attention.layer_norm_rms_epsilon',
    'rotated': 'rope.dimension_count', 'base': 'rope.freq_base', 'local_base': 'rope.freq_base_swa',
    'scaling': 'rope.scaling.type', 'factor': 'rope.scaling.factor', 'old_factor': 'rope.scale_linear',
    'original': 'rope.scaling.original_context_length', 'fast': 'rope.scaling.yarn_beta_fast',
    'slow': 'rope.scaling.yarn_beta_slow', 'window': 'attention.sliding_window',
    'pattern': 'attention.sliding_window_pattern', 'attention_cap': 'attn_logit_softcapping',
    'output_cap': 'final_logit_softcapping', 'scale': 'attention.scale'}):
  """The metadata of an architecture, without its prefix."""

  layers: Layers
  width: Size
  mlp_dim: Size
  heads: Size
  epsilon: Positive
  longest: Size
  kv_heads: Size | None = None
  key_dim: Size | None = None
  value_dim: Size | None = None
  rotated: Size | None = None
  base: Positive | None = None
  local_base: Positive = _GEMMA3_LOCAL_BASE
  scaling: str = 'none'
  factor: Positive = 1.0
  old_factor: Positive = 1.0
  original: Size | None = None
  fast: Positive | None = None
  slow: Positive | None = None
  window: Count = 0
  pattern: Size | list[bool] | None = None
  attention_cap: Positive | None = None
  output_cap: Positive | None = None
  scale: Positive | None = None


def config_of(file: GgufFile) -> dict[str, Any]:
  """Returns the `config.json` of a file.

  Raises:
    ValueError: its architecture or a key of it is not supported, or a value cannot be used.
  """
  architecture, shapes = file.architecture, file.shapes()
  if architecture not in ARCHITECTURES:
    raise ValueError(f'{file.path} sets general.architecture to {architecture!r}; those that can be read are '
                     f'{", ".join(ARCHITECTURES)}. Give a file of these, or the folder of the model with safetensors.')
  if EMBEDDING not in shapes:
    raise ValueError(f'{file.path} lacks the array {EMBEDDING}. Give a file with the whole model.')
  found = {name.removeprefix(f'{architecture}.'): value for name, value in file.values.items()
           if name.startswith(f'{architecture}.')}
  _require_known(file, found)
  model = fields_of(f'{file.path}: the metadata of {architecture}', found, _Model)
  kv_heads, head_dim = model.kv_heads or model.heads, model.key_dim or model.width // model.heads
  for name, value in (('rope.dimension_count', model.rotated), ('attention.value_length', model.value_dim)):
    if value not in (None, head_dim):
      raise ValueError(f'{file.path} sets {architecture}.{name} to {value}, but heads are {head_dim} wide; only equal '
                       'widths are supported. Choose another model.')
  config = {
    'model_type': architecture, 'vocab_size': shapes[EMBEDDING][0], 'hidden_size': model.width,
    'intermediate_size': model.mlp_dim, 'num_hidden_layers': model.layers, 'num_attention_heads': model.heads,
    'num_key_value_heads': kv_heads, 'head_dim': head_dim, 'rms_norm_eps': model.epsilon, 'hidden_act': 'silu',
    'max_position_embeddings': model.longest, 'tie_word_embeddings': OUTPUT not in shapes,
    'rope_parameters': _rotary(file, model)}
  ends = end_ids(file)
  config |= {'eos_token_id': list(ends)} if ends else {}
  if architecture == 'llama':
    config |= {'model_type': 'mistral', 'sliding_window': model.window} if model.window else {}
    return config | {'attention_bias': 'blk.0.attn_q.bias' in shapes}
  return config | _gemma(file, model, config) if architecture.startswith('gemma') else config


def end_ids(file: GgufFile) -> tuple[int, ...]:
  """Returns the ids that end a generation; the first also ends a text."""
  keys = (f'tokenizer.ggml.{role}_token_id' for role in ('eos', 'eot', 'eom'))
  return tuple(dict.fromkeys(file.values[key] for key in keys if key in file.values))


def _require_known(file: GgufFile, found: dict[str, Any]) -> None:
  others = {key for keys in ARCHITECTURES.values() for key in keys} - {*ARCHITECTURES[file.architecture]}
  known = {*_Model.__struct_encode_fields__} - others
  for key, value in found.items():
    neutral = _NEUTRAL.get(key)
    if key not in known and (neutral is None or (neutral and value not in neutral)):
      wanted = f'expected {neutral[0]!r}' if neutral else 'this key is not supported'
      raise ValueError(f'{file.path} sets {file.architecture}.{key} to {shown(value)}; {wanted}. Choose a model '
                       'without it.')


def _rotary(file: GgufFile, model: _Model) -> dict[str, Any]:
  """Returns `rope_parameters`."""
  if file.architecture == 'gemma3' and model.base is None:
    raise ValueError(f'{file.path} lacks gemma3.rope.freq_base. Get the file again.')
  plain = {'rope_type': 'default', 'rope_theta': model.base or 10000.0}
  scaled, how, factor = plain, model.scaling, model.factor
  if how == 'none' and model.old_factor != 1.0:
    how, factor = 'linear', model.old_factor
  if how == 'linear':
    scaled = plain | {'rope_type': 'linear', 'factor': factor}
  elif how == 'yarn':
    turns = {'beta_fast': model.fast, 'beta_slow': model.slow}
    scaled = plain | {'rope_type': 'yarn', 'factor': factor,
                      'original_max_position_embeddings': model.original or model.longest,
                      **{name: value for name, value in turns.items() if value is not None}}
  elif how != 'none':
    raise ValueError(f'{file.path} sets {file.architecture}.rope.scaling.type to {how!r}; supported are none, linear '
                     'and yarn. Choose another model.')
  if file.architecture == 'llama' and ROPE_FACTORS in file.shapes():
    if how != 'none':
      raise ValueError(f'{file.path} scales rotary positions by {how} and by {ROPE_FACTORS}; expected one of them. '
                       'Get the file again.')
    factors = [float(factor) for factor in file.read(ROPE_FACTORS)]  # of Llama 3.1, one for each frequency
    scaled = plain | {'rope_type': 'longrope', 'short_factor': factors, 'long_factor': factors,
                      'attention_factor': 1.0, 'original_max_position_embeddings': model.longest}
  if file.architecture == 'gemma3':
    return {'full_attention': scaled, 'sliding_attention': {'rope_type': 'default', 'rope_theta': model.local_base}}
  return scaled


def _gemma(file: GgufFile, model: _Model, config: dict[str, Any]) -> dict[str, Any]:
  """Returns what Gemma's `config.json` has in addition."""
  by_width = model.layers == _SCALED_BY_WIDTH[file.architecture]
  width = model.width // model.heads if by_width else config['head_dim']
  found: dict[str, Any] = {
    'hidden_act': 'gelu_pytorch_tanh', 'hidden_activation': 'gelu_pytorch_tanh',
    'query_pre_attn_scalar': width if model.scale is None else round(model.scale**-2, 3)}
  if file.architecture == 'gemma3':
    found |= {'model_type': 'gemma3_text'}
    if not model.window:
      raise ValueError(f'{file.path} lacks gemma3.attention.sliding_window. Get the file again.')
  if isinstance(model.pattern, list):
    found['layer_types'] = ['sliding_attention' if local else 'full_attention' for local in model.pattern]
  elif model.pattern:
    found['sliding_window_pattern'] = model.pattern
  given = {'sliding_window': model.window or None, 'attn_logit_softcapping': model.attention_cap,
           'final_logit_softcapping': model.output_cap}
  return found | {name: value for name, value in given.items() if value is not None}
