"""T5Gemma 2 (Zhang et al. 2025): an encoder and a decoder of Gemma 3's layers, whose self-attention reads both.

In the decoder, one softmax is over its own keys and the encoder's, which the same projections make and which have no
positions. Both share one embedding, also with the output layer. Windows of the encoder see about half as far back as
the number says, and half as far ahead. Of a folder, the part that reads images is not read; what such a folder writes
has one of the smallest size, without weights, because transformers cannot do without.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Count, Fields, checked
from prompt_tuning.models.decoder_config import DecoderConfig
from prompt_tuning.models.families import gemma3, t5gemma
from prompt_tuning.models.family import table
from prompt_tuning.models.stacks_config import StacksConfig

TABLE = (*table('''
  token_embedder/embedding                            model.encoder.embed_tokens.weight
  token_embedder/embedding                            model.decoder.embed_tokens.weight
  image_end                                           model.encoder.embed_tokens.eoi_embedding
  image_end                                           model.decoder.embed_tokens.eoi_embedding
'''), *t5gemma.ENCODER, *t5gemma.rules_of('decoder', t5gemma.SELF), *table('''
  encoder/layers_{i}/attention/query_norm/scale       model.encoder.layers.{i}.self_attn.q_norm.weight
  encoder/layers_{i}/attention/key_norm/scale         model.encoder.layers.{i}.self_attn.k_norm.weight
  decoder/layers_{i}/self_attention/query_norm/scale  model.decoder.layers.{i}.self_attn.q_norm.weight
  decoder/layers_{i}/self_attention/key_norm/scale    model.decoder.layers.{i}.self_attn.k_norm.weight
  decoder/logits_dense/kernel                         lm_head.out_proj.weight                             T
'''))
# Folders have these names, but modules in memory, which adapters of PEFT name, and other folders have longer ones.
TABLE = (*(dataclasses.replace(rule, theirs=rule.theirs.replace('model.encoder.', 'model.encoder.text_model.'))
           for rule in TABLE if rule.theirs.startswith('model.encoder.')), *TABLE)
DEFAULTS = {**gemma3.FAMILY.defaults, 'vocab_size': 262208, 'hidden_size': 2304, 'intermediate_size': 9216,
            'num_hidden_layers': 26}
_NO_IMAGES = {'model_type': 'siglip_vision_model', 'hidden_size': 1, 'intermediate_size': 1, 'num_hidden_layers': 1,
              'num_attention_heads': 1, 'image_size': 1, 'patch_size': 1}


class _Encoder(Fields):
  """The fields of a `config.json` around the encoder's language model."""

  text_config: dict[str, Any]
  eoi_token_index: Count | None = 256000


def read(config: Mapping[str, Any]) -> StacksConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, t5gemma.Stored)
  around = checked(stored.encoder, _Encoder)
  encoder = t5gemma.read_stack('encoder.text_config', DEFAULTS | around.text_config, _read)
  decoder = t5gemma.read_stack('decoder', DEFAULTS | stored.decoder, _read)
  if encoder.width != decoder.width:
    raise ValueError(f'sets encoder.text_config.hidden_size to {encoder.width}, but decoder.hidden_size to '
                     f'{decoder.width}: both read one embedding. Download it again.')
  found = t5gemma.joined(config, encoder, decoder)
  back = tuple(window and (window + 1) // 2 for window in encoder.windows)
  ahead = tuple(window and window // 2 + 1 for window in encoder.windows)
  return dataclasses.replace(
    found, embedding_scale=encoder.embedding_scale, separate_embeddings=False,
    image_end=decoder.vocab_size if around.eoi_token_index is None else around.eoi_token_index,  # V never occurs
    encoder=t5gemma.stack_of(encoder, windows=back, windows_ahead=ahead),
    decoder=dataclasses.replace(found.decoder, merged=True))


def _read(stored: Mapping[str, Any]) -> DecoderConfig:
  """Returns one of the parts."""
  if stored.get('attn_logit_softcapping') is not None:
    raise ValueError(f'sets attn_logit_softcapping to {stored["attn_logit_softcapping"]!r}; the supported value is '
                     'null, because transformers never caps this attention. Download it again.')
  return gemma3.read(stored)


def write(config: StacksConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  encoder, stack = config.encoder, config.encoder
  if encoder.windows_ahead:
    windows = tuple(back and back + ahead - 1 for back, ahead in zip(
      encoder.windows, encoder.windows_ahead, strict=True))
    stack = dataclasses.replace(encoder, windows=windows)
  found = t5gemma.written(config, gemma3.write, stack)
  return found | {'encoder': {
    'text_config': found['encoder'], 'vision_config': _NO_IMAGES, 'mm_tokens_per_image': 1,
    'eoi_token_index': config.image_end}}


FAMILY = dataclasses.replace(
  t5gemma.FAMILY, name='t5gemma2', model_types=('t5gemma2',), architecture='T5Gemma2ForConditionalGeneration',
  read=read, write=write, table=TABLE, required={'is_encoder_decoder': True, 'tie_word_embeddings': True},
  unread=(*t5gemma.FAMILY.unread, r'(model\.)?encoder\.(vision_tower|multi_modal_projector)\..*'))
