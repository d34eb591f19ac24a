"""The registry of model families, and the family of a checkpoint: a new family is one file and one line here."""

from collections.abc import Collection, Mapping
from typing import Any

from prompt_tuning.files.json_files import Fields, fields_of
from prompt_tuning.models.families import (
  bert,
  bloom,
  distilbert,
  gemma,
  gemma2,
  gemma3,
  gemma4,
  gpt2,
  gpt_neo,
  gpt_neox,
  gpt_oss,
  gptj,
  granite,
  llama,
  ministral3,
  mistral,
  mixtral,
  modernbert,
  olmo2,
  olmo3,
  opt,
  phi,
  phi3,
  qwen2,
  qwen3,
  qwen3_5,
  qwen3_moe,
  refused,
  roberta,
  smollm3,
  t5,
  t5gemma,
  t5gemma2,
  t5x_decoder_only,
)
from prompt_tuning.models.family import Family
from prompt_tuning.names import Registry, nearest

FAMILIES: Registry = Registry('model family', {
  't5': t5.FAMILY,
  't5gemma': t5gemma.FAMILY,
  't5gemma2': t5gemma2.FAMILY,
  'gpt2': gpt2.FAMILY,
  'llama': llama.FAMILY,
  'mistral': mistral.FAMILY,
  'mixtral': mixtral.FAMILY,
  'qwen2': qwen2.FAMILY,
  'qwen3': qwen3.FAMILY,
  'qwen3_moe': qwen3_moe.FAMILY,
  'qwen3_5': qwen3_5.FAMILY,
  'gpt_oss': gpt_oss.FAMILY,
  'gemma': gemma.FAMILY,
  'gemma2': gemma2.FAMILY,
  'gemma3': gemma3.FAMILY,
  'gemma4': gemma4.FAMILY,
  'ministral3': ministral3.FAMILY,
  'smollm3': smollm3.FAMILY,
  'granite': granite.FAMILY,
  'olmo2': olmo2.FAMILY,
  'olmo3': olmo3.FAMILY,
  'phi': phi.FAMILY,
  'phi3': phi3.FAMILY,
  'gpt_neox': gpt_neox.FAMILY,
  'gptj': gptj.FAMILY,
  'gpt_neo': gpt_neo.FAMILY,
  'opt': opt.FAMILY,
  'bloom': bloom.FAMILY,
  'bert': bert.FAMILY,
  'roberta': roberta.FAMILY,
  'distilbert': distilbert.FAMILY,
  'modernbert': modernbert.FAMILY,
  't5x': t5x_decoder_only.FAMILY,
}, ', or register yours with prompt_tuning.register_family')
get_family = FAMILIES.find


def register_family(family: Family) -> Family:
  """Registers a family, so that its checkpoints can be loaded and its models saved; returns it.

  Raises:
    ValueError: another family has this name, or one of these model types.
  """
  others = {name: each for name, each in FAMILIES.items() if each is not family}
  for name, other in others.items():
    shared = sorted({*other.model_types} & {*family.model_types})
    if shared:
      raise ValueError(f'The model type {shared[0]!r} of the family {family.name!r} already belongs to {name!r}. '
                       'Give the new family other model types.')
  return FAMILIES.register(family.name, family)


class _Type(Fields):
  model_type: str | None = None
  text_config: dict[str, Any] | None = None


def family_of_folder(stored: Mapping[str, Any], path: str) -> Family:
  """Returns the family of a `config.json`; of a model that reads images, that of its language model.

  Raises:
    ValueError: no family has this model type.
  """
  outer = fields_of(f'{path}/config.json', stored, _Type)
  found = outer.model_type or ''
  by_type = {model_type: family for family in FAMILIES.values() for model_type in family.model_types}
  if found in by_type and outer.text_config:
    inner = fields_of(f'{path}/config.json', outer.text_config, _Type).model_type
    found = inner or found
  if found not in by_type:
    raise ValueError(f'{path}/config.json describes a model of type {found!r}; supported types are '
                     f'{", ".join(by_type)}.{nearest(found, by_type)} {refused.refusal(found, stored, FAMILIES)} '
                     'Choose a model of these types, or register its family with prompt_tuning.register_family.')
  return by_type[found]


def family_of_t5x(names: Collection[str]) -> Family:
  """Returns the family of a T5X checkpoint, by its names; T5's if no other family recognises one of them."""
  return next((family for family in FAMILIES.values() if family.known_by and family.known_by in names), t5.FAMILY)
