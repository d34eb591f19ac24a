"""RoBERTa (Liu et al. 2019): BERT whose positions start after the padding token's id, and whose head is two layers.

The pooler of a folder without a head, which RoBERTa's classifier does not use, is not read.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, Size, checked
from prompt_tuning.models.encoder_config import EncoderConfig
from prompt_tuning.models.families import bert
from prompt_tuning.models.family import table

TABLE = table((bert.EMBEDDINGS + bert.LAYERS.strip('\n')).replace('bert.', 'roberta.') + '''
  pooler/kernel                classifier.dense.weight     T
  pooler/bias                  classifier.dense.bias
  decoder/logits_dense/kernel  classifier.out_proj.weight  T
  decoder/logits_dense/bias    classifier.out_proj.bias
  mask_head/dense/kernel       lm_head.dense.weight        T
  mask_head/dense/bias         lm_head.dense.bias
  mask_head/norm/scale         lm_head.layer_norm.weight
  mask_head/norm/bias          lm_head.layer_norm.bias
  mask_head/bias               lm_head.bias
  mask_head/bias               lm_head.decoder.bias
  token_embedder/embedding     lm_head.decoder.weight
''')


class _Stored(Fields):
  max_position_embeddings: Size
  pad_token_id: int = 1


def read(config: Mapping[str, Any]) -> EncoderConfig:
  """Returns the config of a `config.json`."""
  stored = checked(config, _Stored)
  offset = stored.pad_token_id + 1
  if not 0 < offset < stored.max_position_embeddings:
    raise ValueError(f'sets pad_token_id to {stored.pad_token_id}, after which positions begin, but the table has '
                     f'{stored.max_position_embeddings}. Download it again.')
  return dataclasses.replace(bert.read(config), position_offset=offset, mask_activation='gelu_exact',
                             position_count=stored.max_position_embeddings - offset)


def write(config: EncoderConfig) -> dict[str, Any]:
  """Returns the values of a `config.json`: the inverse of `read`."""
  return bert.write(config) | {'pad_token_id': config.position_offset - 1}


FAMILY = dataclasses.replace(
  bert.FAMILY, name='roberta', model_types=('roberta', 'xlm-roberta', 'camembert'),
  architecture='RobertaForSequenceClassification', read=read, write=write, table=TABLE, prefixes=('roberta.', ''),
  unread=(r'(roberta\.)?pooler\..*', r'(roberta\.)?embeddings\.(position|token_type)_ids'),
  defaults={'type_vocab_size': 2})
