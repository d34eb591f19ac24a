"""T5 as other programs store it: configs, and the table of names of Hugging Face folders.

T5X's parameter names are ours; a T5X checkpoint holds no config, but its shapes tell almost all of it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from prompt_tuning.checkpoints.loading import Rule
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.t5 import T5Config

# 'gelu' is the exact function, but 'gated-gelu' the approximate one.
_ACTIVATIONS = {'relu': ('relu',), 'gated-gelu': ('gelu', 'linear'), 'gelu': ('gelu_exact',), 'gelu_new': ('gelu',),
                'silu': ('silu',), 'gated-silu': ('silu', 'linear'), 'gated-relu': ('relu', 'linear')}
FAMILIES = ('t5', 'mt5')
# T5 1.0's folders hold this table, which nothing has ever read: attention to the encoder has no positions.
BUFFERS = (r'decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight',)
_EMBEDDING = 'decoder/token_embedder/embedding'  # of a decoder-only T5


def read_config(config: Mapping[str, Any], names: Mapping[str, Any], path: str) -> T5Config:
  """Returns the config that a Hugging Face folder describes.

  Args:
    config: its `config.json`.
    names: its arrays; whether there is an `lm_head.weight` decides if the output layer is tied, since the config's
      `tie_word_embeddings` cannot be trusted.
    path: for messages.

  Raises:
    ValueError: it is another family, or uses what this family does not have here.
  """
  family = config.get('model_type')
  if family not in FAMILIES:
    raise ValueError(f'{path}/config.json describes a model of type {family!r}; supported are '
                     f'{", ".join(FAMILIES)}. Give the folder of a T5.')
  projection = config.get('feed_forward_proj', 'relu')
  if projection not in _ACTIVATIONS:
    raise ValueError(f'{path}/config.json asks for feed_forward_proj {projection!r}; supported are '
                     f'{", ".join(_ACTIVATIONS)}.')
  for name, wanted in (('layer_norm_epsilon', 1e-6), ('decoder_start_token_id', 0)):
    if config.get(name, wanted) not in (wanted, None):
      raise ValueError(f'{path}/config.json sets {name} to {config[name]}; supported is {wanted}, as every published '
                       'T5 has it.')
  return T5Config(
    vocab_size=config['vocab_size'], width=config['d_model'], heads=config['num_heads'], head_dim=config['d_kv'],
    mlp_dim=config['d_ff'], encoder_layers=config['num_layers'],
    decoder_layers=config.get('num_decoder_layers') or config['num_layers'],
    mlp_activations=_ACTIVATIONS[projection], tied='lm_head.weight' not in names,
    scaled=config.get('scale_decoder_outputs', family == 't5' and config.get('tie_word_embeddings', True)),
    relative_buckets=config.get('relative_attention_num_buckets', 32),
    relative_max_distance=config.get('relative_attention_max_distance', 128))


def write_config(config: T5Config) -> dict[str, Any]:
  """Returns the `config.json` of a model: the inverse of `read_config`."""
  projection = next(name for name, found in _ACTIVATIONS.items() if found == config.mlp_activations)
  return {
    'architectures': ['T5ForConditionalGeneration'], 'model_type': 't5', 'is_encoder_decoder': True,
    'vocab_size': config.vocab_size, 'd_model': config.width, 'num_heads': config.heads, 'd_kv': config.head_dim,
    'd_ff': config.mlp_dim, 'num_layers': config.encoder_layers, 'num_decoder_layers': config.decoder_layers,
    'feed_forward_proj': projection, 'tie_word_embeddings': config.tied, 'scale_decoder_outputs': config.scaled,
    'relative_attention_num_buckets': config.relative_buckets,
    'relative_attention_max_distance': config.relative_max_distance, 'dropout_rate': 0.0,
    'decoder_start_token_id': 0, 'pad_token_id': 0, 'eos_token_id': 1, 'dtype': 'float32'}


def infer_config(names: Mapping[str, tuple[tuple[int, ...], Any]], path: str) -> T5Config | DecoderConfig:
  """Returns the config that the shapes of a T5X checkpoint's parameters tell.

  What shapes do not tell is taken as every published T5 has it: the distance at which the last bucket starts (128),
  and the activation (GELU where the MLP is gated, else ReLU).

  Raises:
    ValueError: the checkpoint is not a T5.
  """
  if _EMBEDDING in names:
    return _infer_decoder_only(names)
  own = 'encoder/layers_0/relpos_bias/rel_embedding'
  relative = own if own in names else 'encoder/relpos_bias/rel_embedding'
  wanted = ['token_embedder/embedding', relative,
            'encoder/layers_0/attention/query/kernel', 'decoder/layers_0/self_attention/query/kernel']
  missing = [name for name in wanted if name not in names]
  if missing:
    raise ValueError(f'{path} is not an encoder-decoder T5: it lacks {", ".join(missing)}.')
  shape = {name: found[0] for name, found in names.items()}
  layers = lambda stack: 1 + max(int(name.split('/')[1].removeprefix('layers_')) for name in names
                                 if name.startswith(f'{stack}/layers_'))
  vocab_size, width = shape['token_embedder/embedding']
  heads, buckets = shape[relative]
  gated = 'encoder/layers_0/mlp/wi_0/kernel' in names
  tied = 'decoder/logits_dense/kernel' not in names
  return T5Config(
    vocab_size=vocab_size, width=width, heads=heads,
    head_dim=shape['encoder/layers_0/attention/query/kernel'][1] // heads,
    mlp_dim=shape['encoder/layers_0/mlp/wo/kernel'][0], encoder_layers=layers('encoder'),
    decoder_layers=layers('decoder'), mlp_activations=('gelu', 'linear') if gated else ('relu',), tied=tied,
    scaled=tied, relative_buckets=buckets, layer_biases=relative == own)


def _infer_decoder_only(names: Mapping[str, tuple[tuple[int, ...], Any]]) -> DecoderConfig:
  shape = {name: found[0] for name, found in names.items()}
  heads, buckets = shape['decoder/relpos_bias/rel_embedding']
  vocab_size, width = shape[_EMBEDDING]
  gated, tied = 'decoder/layers_0/mlp/wi_0/kernel' in names, 'decoder/logits_dense/kernel' not in names
  return DecoderConfig(
    layers=1 + max(int(name.split('/')[1].removeprefix('layers_')) for name in names
                   if name.startswith('decoder/layers_')),
    width=width, heads=heads, head_dim=shape['decoder/layers_0/self_attention/query/kernel'][1] // heads,
    mlp_dim=shape['decoder/layers_0/mlp/wo/kernel'][0], vocab_size=vocab_size, family='t5x', tied=tied,
    started=True, mlp_activations=('gelu', 'linear') if gated else ('relu',), relative_buckets=buckets,
    output_scale=width**-0.5 if tied else 1.0)


def decoder_only_rules(paths: Iterable[str]) -> list[Rule]:
  """Returns the table of names of T5X's decoder-only checkpoints: ours, but for the embedding."""
  named = [path.replace('/layers/', '/layers_{i}/') for path in paths]
  return [Rule(name, _EMBEDDING if name == 'token_embedder/embedding' else name) for name in named]


def hugging_face_rules(config: T5Config) -> list[Rule]:
  """Returns the table of names of a Hugging Face folder: ours, theirs, and whether theirs is transposed."""
  inner = ['wi'] if len(config.mlp_activations) == 1 else ['wi_0', 'wi_1']
  rules = [Rule('token_embedder/embedding', 'shared.weight'),
           Rule('token_embedder/embedding', 'encoder.embed_tokens.weight'),
           Rule('token_embedder/embedding', 'decoder.embed_tokens.weight')]
  if not config.tied:
    rules.append(Rule('decoder/logits_dense/kernel', 'lm_head.weight', transpose=True))
  attention = {'query': 'q', 'key': 'k', 'value': 'v', 'out': 'o'}
  stacks = {
    'encoder': [('attention', 'pre_attention_layer_norm', 'SelfAttention')],
    'decoder': [('self_attention', 'pre_self_attention_layer_norm', 'SelfAttention'),
                ('encoder_decoder_attention', 'pre_cross_attention_layer_norm', 'EncDecAttention')]}
  for stack, blocks in stacks.items():
    rules += [
      Rule(f'{stack}/relpos_bias/rel_embedding',
           f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight', transpose=True),
      Rule(f'{stack}/{stack}_norm/scale', f'{stack}.final_layer_norm.weight')]
    ours, theirs = f'{stack}/layers_{{i}}', f'{stack}.block.{{i}}.layer'
    for number, (name, norm, module) in enumerate(blocks):
      rules.append(Rule(f'{ours}/{norm}/scale', f'{theirs}.{number}.layer_norm.weight'))
      rules += [Rule(f'{ours}/{name}/{mine}/kernel', f'{theirs}.{number}.{module}.{other}.weight', transpose=True)
                for mine, other in attention.items()]
    rules.append(Rule(f'{ours}/pre_mlp_layer_norm/scale', f'{theirs}.{len(blocks)}.layer_norm.weight'))
    rules += [Rule(f'{ours}/mlp/{name}/kernel', f'{theirs}.{len(blocks)}.DenseReluDense.{name}.weight',
                   transpose=True) for name in [*inner, 'wo']]
  return rules
