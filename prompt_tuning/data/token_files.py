"""What the JSON files of a model folder say about its tokens, read as transformers 5 reads them.

`tokenizer_config.json` comes first; `special_tokens_map.json` and `added_tokens.json` complete it, and win if it lists
no added tokens. Each file may be absent.
"""

import dataclasses
import json
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec
from absl import logging

from prompt_tuning.data.added_tokens import AddedToken
from prompt_tuning.files import model_files, storage

FILES = ('tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json', 'generation_config.json')

# The names of a tokenizer's tokens if no file gives them. GPT-2's end token is also its begin token.
_T5 = {'eos': '</s>', 'unk': '<unk>', 'pad': '<pad>'}
# BERT's text ends with its separator, and begins with the token of its class.
_BERT = {'bos': '[CLS]', 'eos': '[SEP]', 'unk': '[UNK]', 'pad': '[PAD]', 'mask': '[MASK]'}
_ROBERTA = {'bos': '<s>', 'eos': '</s>', 'unk': '<unk>', 'pad': '<pad>', 'mask': '<mask>'}
_DEFAULTS = {
  'BertTokenizer': _BERT, 'DistilBertTokenizer': _BERT,
  'T5Tokenizer': _T5, 'ByT5Tokenizer': _T5,
  'GPT2Tokenizer': {'bos': '<|endoftext|>', 'eos': '<|endoftext|>'},
  'XLMRobertaTokenizer': _ROBERTA, 'CamembertTokenizer': _ROBERTA, 'RobertaTokenizer': _ROBERTA,
  'LlamaTokenizer': {'bos': '<s>', 'eos': '</s>', 'unk': '<unk>'},
  'Qwen2Tokenizer': {'eos': '<|endoftext|>', 'pad': '<|endoftext|>'},
  'GemmaTokenizer': {'bos': '<bos>', 'eos': '<eos>', 'unk': '<unk>', 'pad': '<pad>'},
}
_OF_MODELS = {'t5': 'T5Tokenizer', 'mt5': 'T5Tokenizer', 'gpt2': 'GPT2Tokenizer', 'llama': 'LlamaTokenizer',
              'qwen2': 'Qwen2Tokenizer', 'qwen3': 'Qwen2Tokenizer', 'gemma2': 'GemmaTokenizer',
              'gemma3': 'GemmaTokenizer', 'gemma3_text': 'GemmaTokenizer', 't5gemma': 'GemmaTokenizer',
              't5gemma2': 'GemmaTokenizer', 'bert': 'BertTokenizer',
              'distilbert': 'DistilBertTokenizer', 'roberta': 'RobertaTokenizer',
              'xlm-roberta': 'XLMRobertaTokenizer', 'camembert': 'CamembertTokenizer'}
_ROLES = ('bos', 'eos', 'unk', 'sep', 'pad', 'cls', 'mask')

_Token = str | AddedToken
_Id = Annotated[int, msgspec.Meta(ge=0)]
_Read = TypeVar('_Read')


@dataclasses.dataclass(frozen=True)
class _Names:
  """The fields of `special_tokens_map.json`; the names of further tokens end in `_token` too."""

  bos_token: _Token | None = None
  eos_token: _Token | None = None
  unk_token: _Token | None = None
  sep_token: _Token | None = None
  pad_token: _Token | None = None
  cls_token: _Token | None = None
  mask_token: _Token | None = None
  additional_special_tokens: list[_Token] | None = None
  extra_special_tokens: list[_Token] | dict[str, _Token] | None = None


@dataclasses.dataclass(frozen=True)
class _TokenizerConfig(_Names):
  tokenizer_class: str | None = None
  added_tokens_decoder: dict[_Id, AddedToken] | None = None
  extra_ids: Annotated[int, msgspec.Meta(ge=0, le=100_000)] | None = None
  add_bos_token: bool | None = None
  add_prefix_space: bool | None = None
  legacy: bool | None = None
  split_special_tokens: bool | None = None


@dataclasses.dataclass(frozen=True)
class _ModelConfig:
  """The fields of `config.json` and `generation_config.json`."""

  model_type: str | None = None
  tokenizer_class: str | None = None
  eos_token_id: int | list[int] | None = None  # -1 stands for none


@dataclasses.dataclass(frozen=True)
class TokenFacts:
  """What a folder says.

  Attributes:
    tokenizer_class: the class of transformers, without 'Fast'; '' if nothing tells it.
    model_type: `config.json`'s.
    names: role ('bos', 'eos', 'pad', …) -> text, as far as the files name them.
    defaults: likewise, the names that the class gives to the other roles.
    added: the tokens that are matched in a text, in the order in which they get their ids.
    ends: the ids that end a generation.
    described: there is a `tokenizer_config.json` or `special_tokens_map.json` that is not empty.
    extra_ids, add_bos_token, add_prefix_space, legacy: fields of `tokenizer_config.json`; None if it lacks them.
  """

  tokenizer_class: str
  model_type: str
  names: dict[str, str]
  defaults: dict[str, str]
  added: tuple[AddedToken, ...]
  ends: tuple[int, ...]
  described: bool
  extra_ids: int | None
  add_bos_token: bool | None
  add_prefix_space: bool | None
  legacy: bool | None

  def with_defaults(self) -> tuple[AddedToken, ...]:
    """Returns the added tokens and those of the class's default names."""
    return _once([*self.added, *(AddedToken(text, special=True) for text in self.defaults.values())])


def read_token_facts(folder: str) -> TokenFacts:
  """Returns what the files of a folder say about its tokens.

  Raises:
    ValueError: a file is damaged, or has a setting that is not supported; the message names file and field.
  """
  config, raw = _read(folder, 'tokenizer_config.json', _TokenizerConfig)
  model, _ = _read(folder, 'config.json', _ModelConfig)
  mapped, raw_map = _read(folder, 'special_tokens_map.json', _Names)
  numbers, _ = _read(folder, 'added_tokens.json', dict[str, _Id])
  if config.split_special_tokens:
    raise ValueError(f'{storage.join(folder, "tokenizer_config.json")} has split_special_tokens: true, which is not '
                     'supported. Remove it: special tokens in a text are then matched.')
  by_id = config.added_tokens_decoder or {}
  listed = [dataclasses.replace(token, id=i) for i, token in sorted(by_id.items())]
  said, also = _named(folder, 'tokenizer_config.json', raw), _named(folder, 'special_tokens_map.json', raw_map)
  named = also | said if config.added_tokens_decoder is not None else said | also
  named = dict(sorted(named.items(), key=lambda item: _ROLES.index(item[0]) if item[0] in _ROLES else len(_ROLES)))
  extra = [_token(token) for each in (config, mapped) for many in (each.additional_special_tokens,
                                                                    each.extra_special_tokens)
           for token in (many.values() if isinstance(many, dict) else many or ())]
  special = {token.content for token in [*named.values(), *extra]}
  numbered = _numbered(folder, numbers, by_id, special)
  kind = (config.tokenizer_class or model.tokenizer_class or _OF_MODELS.get(model.model_type, '')).removesuffix('Fast')
  names = {role: token.content for role, token in named.items()}
  defaults = {role: text for role, text in _DEFAULTS.get(kind, {}).items() if role not in names}
  return TokenFacts(
    tokenizer_class=kind, model_type=model.model_type or '', names=names, defaults=defaults,
    added=_once([*listed, *numbered, *named.values(), *extra]), ends=end_ids(folder), described=bool(raw or raw_map),
    extra_ids=config.extra_ids, add_bos_token=config.add_bos_token, add_prefix_space=config.add_prefix_space,
    legacy=config.legacy)


def end_ids(folder: str) -> tuple[int, ...]:
  """Returns the ids that end a generation, of `generation_config.json`, else of `config.json`.

  Raises:
    ValueError: a file is damaged.
  """
  for file in ('generation_config.json', 'config.json'):
    found = _read(folder, file, _ModelConfig)[0].eos_token_id
    if found is not None:
      return tuple(i for i in (found if isinstance(found, list) else [found]) if i >= 0)
  return ()


def _named(folder: str, file: str, content: dict[str, Any]) -> dict[str, AddedToken]:
  """Returns role -> token, of the fields whose names end in `_token`; a model may add roles to the usual ones."""
  found = {}
  for name, token in content.items():
    if name.endswith('_token') and isinstance(token, str | dict):
      try:
        found[name.removesuffix('_token')] = _token(msgspec.convert(token, _Token))
      except msgspec.ValidationError as error:
        raise ValueError(f'{storage.join(folder, file)}: {name} is not a token ({error}). Fix it.') from error
  return found


def _numbered(folder: str, numbers: dict[str, int], listed: dict[int, AddedToken],
              special: set[str]) -> list[AddedToken]:
  """Returns the tokens of `added_tokens.json` whose ids `tokenizer_config.json` does not list."""
  found = {}
  for text, i in numbers.items():
    if i in found:
      raise ValueError(f'{folder}/added_tokens.json gives the id {i} to {found[i].content!r} and {text!r}. Give each a '
                       'separate id.')
    if i not in listed:
      found[i] = AddedToken(text, i, special=text in special)
    elif listed[i].content != text:
      logging.warning('%s: the token %d is %r in added_tokens.json and %r in tokenizer_config.json, which is used.',
                      folder, i, text, listed[i].content)
  return [found[i] for i in sorted(found)]


def _once(tokens: Iterable[AddedToken]) -> tuple[AddedToken, ...]:
  """Returns the first token of each text."""
  found = {}
  for token in tokens:
    if token.content:
      found.setdefault(token.content, token)
  return tuple(found.values())


def _token(token: _Token) -> AddedToken:
  """Returns a named token, which is special."""
  return AddedToken(token, special=True) if isinstance(token, str) else dataclasses.replace(token, special=True)


def _read(folder: str, file: str, kind: type[_Read]) -> tuple[_Read, dict[str, Any]]:
  """Returns the checked content of a JSON file, and all of it; both are empty if it does not exist."""
  path = storage.join(folder, file)
  if not model_files.exists(path):
    return kind(), {}
  read = model_files.read_bytes(path)
  try:
    content = json.loads(read)
    return msgspec.convert(content, kind, str_keys=True), content
  except (ValueError, RecursionError, msgspec.ValidationError) as error:
    raise ValueError(f'{path} cannot be read ({error}). Fix it, or download it again.') from error
