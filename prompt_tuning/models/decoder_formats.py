"""Decoder-only families as other programs store them: readers of `config.json`, and tables of names.

A family is a function from its `config.json` to a `DecoderConfig`, and a list of rules.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_tuning import trees
from prompt_tuning.checkpoints.loading import Rule
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.positions import Rotary

_ACTIVATIONS = {'gelu_new': 'gelu', 'gelu_pytorch_tanh': 'gelu', 'gelu': 'gelu_exact', 'silu': 'silu', 'swish': 'silu',
                'relu': 'relu'}
FUSED = {r'(.*\.)?h\.\d+\.attn\.c_attn\.(weight|bias)': 3}  # arrays that hold several of ours side by side
# No parameters, and what reads images.
BUFFERS = (r'(.*\.)?h\.\d+\.attn\.(bias|masked_bias)', r'.*\.rotary_emb\.inv_freq',
           r'(model\.)?(vision_tower|multi_modal_projector)\..*')
_PROJECTIONS = {'query': 'q_proj', 'key': 'k_proj', 'value': 'v_proj', 'out': 'o_proj'}
_GEMMA = {'head_dim': 256, 'num_attention_heads': 8, 'num_key_value_heads': 4, 'query_pre_attn_scalar': 256,
          'hidden_activation': 'gelu_pytorch_tanh', 'sliding_window': 4096}
# What a `config.json` that does not say it means.
_DEFAULTS: dict[str, dict[str, Any]] = {
  'mistral': {'sliding_window': 4096, 'num_key_value_heads': 8}, 'qwen3': {'head_dim': 128},
  'gemma2': {**_GEMMA, 'attn_logit_softcapping': 50.0, 'final_logit_softcapping': 30.0},
  'gemma3': {**_GEMMA, 'rope_theta': 1e6, 'rope_local_base_freq': 1e4, 'vocab_size': 262208}}


def read_config(config: Mapping[str, Any], names: Mapping[str, Any], path: str) -> DecoderConfig:
  """Returns the config that a Hugging Face folder describes.

  Args:
    config: its `config.json`.
    names: its arrays; whether there is an `lm_head.weight` decides if the output layer is tied.
    path: for messages.

  Raises:
    ValueError: it is another family, or uses what this family does not have here.
  """
  family = config.get('model_type', '').removesuffix('_text')
  family = {'ministral': 'mistral'}.get(family, family)  # which is a Mistral whose layers are named
  if 'text_config' in config:  # a model that reads images too: its language model
    config = config['text_config']
  if family not in _READERS:
    raise ValueError(f'{path}/config.json describes a model of type {family!r}; supported are t5, mt5, '
                     f'{", ".join(_READERS)}.{trees.nearest(family, _READERS)}')
  tied = not any(name.removesuffix('.weight').endswith('lm_head') for name in names)
  if tied and config.get('tie_word_embeddings') is False:
    raise ValueError(f'{path} holds no lm_head.weight, although its config.json sets tie_word_embeddings to False: it '
                     'is a model without its output layer. Give the folder of the whole language model.')
  try:
    return _READERS[family](_DEFAULTS.get(family, {}) | dict(config), family=family, tied=tied, path=path)
  except KeyError as error:
    raise ValueError(f'{path}/config.json lacks {error} that a model of type {family!r} needs. '
                     'Give a folder that is whole.') from error


def _gpt2(config: Mapping[str, Any], **common: Any) -> DecoderConfig:
  path = common.pop('path')
  for name in ('scale_attn_by_inverse_layer_idx', 'add_cross_attention'):
    _refuse(config, path, name, config.get(name, False), False)
  _refuse(config, path, 'scale_attn_weights', config.get('scale_attn_weights', True), True)
  head_dim = config['n_embd'] // config['n_head']
  return DecoderConfig(
    layers=config['n_layer'], width=config['n_embd'], heads=config['n_head'], head_dim=head_dim,
    mlp_dim=config.get('n_inner') or 4 * config['n_embd'], vocab_size=config['vocab_size'],
    mlp_activations=(_activation(config.get('activation_function', 'gelu_new'), path),), norm='layer',
    norm_epsilon=config.get('layer_norm_epsilon', 1e-5), bias=True, query_scale=head_dim**-0.5,
    initial_scale=config.get('initializer_range', 0.02),
    position_count=config['n_positions'], **common)


def _llama(config: Mapping[str, Any], **common: Any) -> DecoderConfig:
  path, family = common.pop('path'), common['family']
  for name in ('mlp_bias', 'use_bidirectional_attention'):
    _refuse(config, path, name, config.get(name) or False, False)
  layers, heads = config['num_hidden_layers'], config['num_attention_heads']
  head_dim = config.get('head_dim') or config['hidden_size'] // heads
  kinds = layer_types(config, family, path)
  window = config.get('sliding_window') or 0
  gemma = family.startswith('gemma')
  biases = tuple(_PROJECTIONS) if config.get('attention_bias') else ()
  if family == 'qwen2':
    biases = ('query', 'key', 'value')
  return DecoderConfig(
    layers=layers, width=config['hidden_size'], heads=heads, head_dim=head_dim, mlp_dim=config['intermediate_size'],
    kv_heads=config.get('num_key_value_heads') or heads, vocab_size=config['vocab_size'],
    mlp_activations=(_activation(config.get('hidden_activation') or config.get('hidden_act', 'silu'), path), 'linear'),
    norm_epsilon=config.get('rms_norm_eps', 1e-6), norm_offset=1.0 if gemma else 0.0, post_norms=gemma,
    query_norms=family in ('qwen3', 'gemma3'), projection_biases=biases,
    query_scale=(config['query_pre_attn_scalar'] if gemma else head_dim)**-0.5,
    attention_cap=config.get('attn_logit_softcapping') or 0.0, output_cap=config.get('final_logit_softcapping') or 0.0,
    embedding_scale=config['hidden_size']**0.5 if gemma else 1.0,
    rotary=tuple(_rotary(config, kind, path) for kind in kinds),
    windows=tuple(window if kind == 'sliding_attention' else 0 for kind in kinds), **common)


_READERS: dict[str, Callable[..., DecoderConfig]] = {
  'gpt2': _gpt2, **dict.fromkeys(('llama', 'mistral', 'qwen2', 'qwen3', 'gemma2', 'gemma3'), _llama)}


def layer_types(config: Mapping[str, Any], family: str, path: str) -> Sequence[str]:
  """Returns 'sliding_attention' or 'full_attention' for each layer of a `config.json`."""
  count = config['num_hidden_layers']
  if family.startswith('qwen') and not config.get('use_sliding_window'):
    return ['full_attention'] * count
  if config.get('layer_types'):
    for kind in config['layer_types']:
      if kind not in ('sliding_attention', 'full_attention'):
        raise ValueError(f'{path}/config.json has a layer of the type {kind!r}; supported are sliding_attention and '
                         'full_attention.')
    return config['layer_types']
  if family == 'mistral':
    return ['sliding_attention' if config.get('sliding_window') else 'full_attention'] * count
  if family.startswith('qwen'):
    return ['sliding_attention' if i >= config.get('max_window_layers', 28) else 'full_attention'
            for i in range(count)]
  # Before configs named each layer: every second (Gemma 2) or sixth (Gemma 3) sees everything.
  every = {'gemma2': 2, 'gemma3': config.get('sliding_window_pattern') or 6}.get(family, 1)
  return ['full_attention' if (i + 1) % every == 0 else 'sliding_attention' for i in range(count)]


def _rotary(config: Mapping[str, Any], kind: str, path: str) -> Rotary:
  """Returns a layer's rotary positions; transformers 5 gathers them in `rope_parameters`, before they lay about."""
  given = config.get('rope_parameters') or {}
  given = given.get(kind, given)
  if not given:
    local = kind == 'sliding_attention' and 'rope_local_base_freq' in config
    base = config['rope_local_base_freq'] if local else config.get('rope_theta', 10000.0)
    given = {'rope_theta': base, **({} if local else config.get('rope_scaling') or {})}
  how = given.get('rope_type', given.get('type', 'default'))
  _refuse(given, path, 'partial_rotary_factor', given.get('partial_rotary_factor', 1.0), 1.0)
  if how == 'default':
    return Rotary(given['rope_theta'])
  if how == 'linear':
    return Rotary(given['rope_theta'], given['factor'])
  if how == 'llama3':
    return Rotary(given['rope_theta'], given['factor'], given['original_max_position_embeddings'],
                  given['low_freq_factor'], given['high_freq_factor'])
  raise ValueError(f'{path}/config.json scales rotary positions by {how!r}; supported are default, linear, llama3.')


def _activation(name: str, path: str) -> str:
  if name not in _ACTIVATIONS:
    raise ValueError(f'{path}/config.json asks for the activation {name!r}; supported are {", ".join(_ACTIVATIONS)}.')
  return _ACTIVATIONS[name]


def _refuse(config: Mapping[str, Any], path: str, name: str, found: Any, wanted: Any) -> None:
  if found != wanted:
    raise ValueError(f'{path}/config.json sets {name} to {found!r}; supported is {wanted!r}.')


def hugging_face_rules(config: DecoderConfig) -> list[Rule]:
  """Returns the table of names of a Hugging Face folder: ours, theirs, and whether theirs is transposed."""
  rules = _gpt2_rules() if config.family == 'gpt2' else _llama_rules(config)
  embedding = 'wte.weight' if config.family == 'gpt2' else 'embed_tokens.weight'
  rules.append(Rule('token_embedder/embedding', embedding))
  # The second form is that of folders without the head's module around the model, the others of models with images.
  prefixes = ('transformer.', '') if config.family == 'gpt2' else (
    'model.', '', 'language_model.model.', 'model.language_model.')
  heads = [Rule('decoder/logits_dense/kernel', f'{prefix}lm_head.weight', transpose=True)
           for prefix in ('', 'language_model.')]
  return [*(Rule(rule.ours, prefix + rule.theirs, rule.transpose) for prefix in prefixes for rule in rules),
          *([] if config.tied else heads)]


def has_folders(config: DecoderConfig) -> bool:
  """Says whether models of this family have a form in Hugging Face folders."""
  return config.family in _READERS


def write_config(config: DecoderConfig) -> dict[str, Any]:
  """Returns the `config.json` of a model: the inverse of `read_config`."""
  activation = next(name for name, ours in _ACTIVATIONS.items() if ours == config.mlp_activations[0])
  common = {'vocab_size': config.vocab_size, 'tie_word_embeddings': config.tied, 'dtype': 'float32'}
  if config.family == 'gpt2':
    return common | {
      'model_type': 'gpt2', 'architectures': ['GPT2LMHeadModel'], 'n_embd': config.width, 'n_head': config.heads,
      'n_layer': config.layers, 'n_inner': config.mlp_dim, 'n_positions': config.position_count,
      'activation_function': activation, 'layer_norm_epsilon': config.norm_epsilon}
  if not has_folders(config):
    raise ValueError(f'A model of the family {config.family!r} has no form in Hugging Face folders. '
                     'Write it in the layout "t5x".')
  name = {'gemma2': 'Gemma2', 'gemma3': 'Gemma3'}.get(config.family, config.family.capitalize())
  return common | {
    'model_type': 'gemma3_text' if config.family == 'gemma3' else config.family,
    'architectures': [f'{name}ForCausalLM'], 'hidden_size': config.width, 'num_attention_heads': config.heads,
    'num_key_value_heads': config.kv_heads, 'head_dim': config.head_dim, 'num_hidden_layers': config.layers,
    'intermediate_size': config.mlp_dim, 'hidden_act': activation, 'hidden_activation': activation,
    'rms_norm_eps': config.norm_epsilon, 'attention_bias': bool(config.projection_biases),
    'query_pre_attn_scalar': round(config.query_scale**-2),
    'attn_logit_softcapping': config.attention_cap or None, 'final_logit_softcapping': config.output_cap or None,
    'sliding_window': max([0, *config.windows]) or None, 'use_sliding_window': any(config.windows),
    'rope_parameters': _rope_parameters(config),
    # A Mistral whose layers are named is read as one whose layers differ.
    **({} if config.family == 'mistral' and len(set(config.windows)) == 1 else {'layer_types': [
      'sliding_attention' if window else 'full_attention' for window in config.windows]})}


def _rope_parameters(config: DecoderConfig) -> dict[str, Any]:
  def described(rotary: Rotary) -> dict[str, Any]:
    if rotary.original:
      return {'rope_type': 'llama3', 'rope_theta': rotary.base, 'factor': rotary.factor,
              'original_max_position_embeddings': rotary.original, 'low_freq_factor': rotary.low,
              'high_freq_factor': rotary.high}
    scaling = {} if rotary.factor == 1.0 else {'factor': rotary.factor}
    return {'rope_type': 'linear' if scaling else 'default', 'rope_theta': rotary.base, **scaling}

  kinds = {'sliding_attention' if window else 'full_attention': described(rotary)
           for rotary, window in zip(config.rotary, config.windows, strict=True)}
  return kinds if config.family == 'gemma3' else next(iter(kinds.values()))


def _gpt2_rules() -> list[Rule]:
  ours, theirs = 'decoder/layers_{i}', 'h.{i}'
  rules = [Rule('position_embedder/embedding', 'wpe.weight')]
  for mine, other in ((f'{ours}/pre_self_attention_layer_norm', f'{theirs}.ln_1'),
                      (f'{ours}/pre_mlp_layer_norm', f'{theirs}.ln_2'), ('decoder/decoder_norm', 'ln_f')):
    rules += [Rule(f'{mine}/scale', f'{other}.weight'), Rule(f'{mine}/bias', f'{other}.bias')]
  dense = {'mlp/wi': 'mlp.c_fc{}', 'mlp/wo': 'mlp.c_proj{}', 'self_attention/out': 'attn.c_proj{}',
           **{f'self_attention/{name}': f'attn.c_attn{{}}[{part}/3]'
              for part, name in enumerate(('query', 'key', 'value'))}}
  for mine, other in dense.items():
    rules += [Rule(f'{ours}/{mine}/kernel', f'{theirs}.{other.format(".weight")}'),
              Rule(f'{ours}/{mine}/bias', f'{theirs}.{other.format(".bias")}')]
  return rules


def _llama_rules(config: DecoderConfig) -> list[Rule]:
  ours, theirs = 'decoder/layers_{i}', 'layers.{i}'
  norms = {'decoder/decoder_norm': 'norm', f'{ours}/pre_self_attention_layer_norm': f'{theirs}.input_layernorm'}
  if config.post_norms:
    norms |= {f'{ours}/post_self_attention_layer_norm': f'{theirs}.post_attention_layernorm',
              f'{ours}/pre_mlp_layer_norm': f'{theirs}.pre_feedforward_layernorm',
              f'{ours}/post_mlp_layer_norm': f'{theirs}.post_feedforward_layernorm'}
  else:
    norms[f'{ours}/pre_mlp_layer_norm'] = f'{theirs}.post_attention_layernorm'
  if config.query_norms:
    norms |= {f'{ours}/self_attention/{kind}_norm': f'{theirs}.self_attn.{kind[0]}_norm' for kind in ('query', 'key')}
  kernels = {**{f'self_attention/{mine}': f'self_attn.{other}' for mine, other in _PROJECTIONS.items()},
             'mlp/wi_0': 'mlp.gate_proj', 'mlp/wi_1': 'mlp.up_proj', 'mlp/wo': 'mlp.down_proj'}
  return [*(Rule(f'{mine}/scale', f'{other}.weight') for mine, other in norms.items()),
          *(Rule(f'{ours}/{mine}/kernel', f'{theirs}.{other}.weight', transpose=True)
            for mine, other in kernels.items()),
          *(Rule(f'{ours}/self_attention/{mine}/bias', f'{theirs}.self_attn.{_PROJECTIONS[mine]}.bias')
            for mine in config.projection_biases)]
