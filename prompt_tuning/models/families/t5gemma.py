"""T5Gemma (Zhang et al. 2025): an encoder and a decoder of Gemma 2's layers, which may have different sizes.

The decoder has an embedding of its own, and also attends to the encoder: with Gemma 2's caps, without positions.
Windows of the encoder see as far ahead as back, both ends included, as in transformers 5.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from prompt_tuning.checkpoints.loading import Rule
from prompt_tuning.files.json_files import Count, Fields, Size, checked
from prompt_tuning.models.decoder_config import DecoderConfig
from prompt_tuning.models.families import gemma2, llama
from prompt_tuning.models.family import Family, table
from prompt_tuning.models.stack_config import StackConfig
from prompt_tuning.models.stacks_config import StacksConfig
from prompt_tuning.models.t5 import T5

_ATTENTION = '''
  STACK/layers_{i}/pre_NORM_layer_norm/scale   model.STACK.layers.{i}.pre_THEIRS_layernorm.weight
  STACK/layers_{i}/OURS/query/kernel           model.STACK.layers.{i}.THEIRS.q_proj.weight                  T
  STACK/layers_{i}/OURS/query/bias             model.STACK.layers.{i}.THEIRS.q_proj.bias
  STACK/layers_{i}/OURS/key/kernel             model.STACK.layers.{i}.THEIRS.k_proj.weight                  T
  STACK/layers_{i}/OURS/key/bias               model.STACK.layers.{i}.THEIRS.k_proj.bias
  STACK/layers_{i}/OURS/value/kernel           model.STACK.layers.{i}.THEIRS.v_proj.weight                  T
  STACK/layers_{i}/OURS/value/bias             model.STACK.layers.{i}.THEIRS.v_proj.bias
  STACK/layers_{i}/OURS/out/kernel             model.STACK.layers.{i}.THEIRS.o_proj.weight                  T
  STACK/layers_{i}/OURS/out/bias               model.STACK.layers.{i}.THEIRS.o_proj.bias
  STACK/layers_{i}/post_NORM_layer_norm/scale  model.STACK.layers.{i}.post_THEIRS_layernorm.weight
'''
_MLP = '''
  STACK/layers_{i}/pre_mlp_layer_norm/scale    model.STACK.layers.{i}.pre_feedforward_layernorm.weight
  STACK/layers_{i}/mlp/wi_0/kernel             model.STACK.layers.{i}.mlp.gate_proj.weight                  T
  STACK/layers_{i}/mlp/wi_1/kernel             model.STACK.layers.{i}.mlp.up_proj.weight                    T
  STACK/layers_{i}/mlp/wo/kernel               model.STACK.layers.{i}.mlp.down_proj.weight                  T
  STACK/layers_{i}/post_mlp_layer_norm/scale   model.STACK.layers.{i}.post_feedforward_layernorm.weight
  STACK/STACK_norm/scale                       model.STACK.norm.weight
'''


def rules_of(stack: str, *attentions: tuple[str, str, str]) -> tuple[Rule, ...]:
  """Returns the table of names of one stack: of its attentions, in their order, its MLP and its last norm.

  Args:
    stack: 'encoder' or 'decoder'.
    attentions: our name of each attention, our name of the norms around it, and their name.
  """
  texts = [_ATTENTION.replace('OURS', ours).replace('NORM', norm).replace('THEIRS', theirs)
           for ours, norm, theirs in attentions]
  return tuple(rule for text in [*texts, _MLP] for rule in table(text.replace('STACK', stack)))


ENCODER = rules_of('encoder', ('attention', 'attention', 'self_attn'))
SELF = 'self_attention', 'self_attention', 'self_attn'
TABLE = (*table('''
  token_embedder/embedding          model.encoder.embed_tokens.weight
  decoder_token_embedder/embedding  model.decoder.embed_tokens.weight
'''), *ENCODER, *rules_of('decoder', SELF, ('encoder_decoder_attention', 'cross_attention', 'cross_attn')), *table('''
  decoder/logits_dense/kernel       lm_head.out_proj.weight            T
'''))
DEFAULTS = {**gemma2.FAMILY.defaults, 'vocab_size': 256000, 'hidden_size': 2304, 'intermediate_size': 9216,
            'num_hidden_layers': 26}


class Stored(Fields):
  """The fields of a `config.json` that this family reads."""

  encoder: dict[str, Any]
  decoder: dict[str, Any]
  decoder_start_token_id: Count | None = None


class _OfDecoder(Fields):
  bos_token_id: Count | None = 2
  cross_attention_hidden_size: Size | None = None


def read(config: Mapping[str, Any]) -> StacksConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, Stored)
  encoder = read_stack('encoder', DEFAULTS | stored.encoder, gemma2.read)
  decoder = read_stack('decoder', DEFAULTS | stored.decoder, gemma2.read)
  ahead = tuple(window and window + 1 for window in encoder.windows)
  return dataclasses.replace(
    joined(config, encoder, decoder), input_scale=encoder.embedding_scale,
    encoder=stack_of(encoder, windows=ahead, windows_ahead=ahead))


def read_stack(name: str, stored: Mapping[str, Any], read: Callable[..., DecoderConfig]) -> DecoderConfig:
  """Returns one of the two parts of a `config.json`, read as that of a decoder-only model.

  Raises:
    KeyError: a field is missing.
    ValueError: a value cannot be used; the message follows the file's name.
  """
  for field, supported in llama.REQUIRED.items():
    if stored.get(field) not in (None, supported):
      raise ValueError(f'sets {name}.{field} to {stored[field]!r}; the supported value is {supported!r}.')
  try:
    found = read(stored)
  except KeyError as error:
    raise KeyError(f'{name}.{error.args[0]}') from error
  except ValueError as error:
    raise ValueError(f'has a part {name!r} that {error}') from error
  if any(rotary.limit(0) for rotary in found.rotary):
    raise ValueError(f'has a part {name!r} whose rotary positions are scaled by the length of rows, which is supported '
                     'for decoder-only models alone. Choose another model.')
  return found


def joined(config: Mapping[str, Any], encoder: DecoderConfig, decoder: DecoderConfig) -> StacksConfig:
  """Returns the config of a model with these two parts, of a `config.json`.

  Raises:
    ValueError: the parts do not fit each other.
  """
  start, of_decoder = checked(config, Stored).decoder_start_token_id, checked(config['decoder'], _OfDecoder)
  begins, reads = of_decoder.bos_token_id, of_decoder.cross_attention_hidden_size
  if encoder.vocab_size != decoder.vocab_size:
    raise ValueError(f'sets encoder.vocab_size to {encoder.vocab_size}, but decoder.vocab_size to '
                     f'{decoder.vocab_size}; supported is one vocabulary for both. Choose another model.')
  if reads not in (None, encoder.width):
    raise ValueError(f'sets decoder.cross_attention_hidden_size to {reads}, but encoder.hidden_size to '
                     f'{encoder.width}. Download it again.')
  if None not in (start, begins) and start != begins:
    raise ValueError(f'sets decoder_start_token_id to {start}, but decoder.bos_token_id to {begins}: it is not clear '
                     'which token the decoder starts with. Set both to that token.')
  if start is begins is None:
    raise KeyError('decoder_start_token_id')
  return StacksConfig(
    vocab_size=decoder.vocab_size, encoder=stack_of(encoder), decoder=stack_of(decoder),
    decoder_scale=decoder.embedding_scale, output_cap=decoder.output_cap, start_id=begins if start is None else start)


def stack_of(found: DecoderConfig, **changes: Any) -> StackConfig:
  """Returns the stack of a decoder-only model with other values."""
  return StackConfig(**_values(found) | changes)


def _values(stack: StackConfig) -> dict[str, Any]:
  """Returns the fields of a stack, without those that a decoder-only model has in addition."""
  return {field.name: getattr(stack, field.name) for field in dataclasses.fields(StackConfig)}


def write(config: StacksConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  window = tuple(window and window - 1 for window in config.encoder.windows)
  return written(config, gemma2.write, dataclasses.replace(config.encoder, windows=window))


def written(config: StacksConfig, write: Callable[..., dict[str, Any]], encoder: StackConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`, whose parts are written as those of decoder-only models."""
  parts = {}
  for name, stack, cap in (('encoder', encoder, 0.0), ('decoder', config.decoder, config.output_cap)):
    parts[name] = write(DecoderConfig(**_values(stack), output_cap=cap)) | {
      'vocab_size': config.vocab_size, 'bos_token_id': config.start_id, 'dropout_rate': 0.0}
    # transformers makes the mask of windows even where no layer has one.
    parts[name]['sliding_window'] = parts[name]['sliding_window'] or DEFAULTS['sliding_window']
  return {'is_encoder_decoder': True, 'decoder_start_token_id': config.start_id, 'dropout_rate': 0.0, **parts}


FAMILY = Family(
  name='t5gemma', model_types=('t5gemma',), architecture='T5GemmaForConditionalGeneration', read=read, write=write,
  table=TABLE, prefixes=('model.', ''), unread=(r'.*\.rotary_emb\.inv_freq',), required={'is_encoder_decoder': True},
  module=T5, t5x_names={}, compared=('vocab_size', 'encoder', 'decoder', 'tied'))
