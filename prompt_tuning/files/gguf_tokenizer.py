"""The tokenizer files that a GGUF file stands for: `tokenizer.json` or `tokenizer.model`, and what goes with them.

`tokenizer.ggml.model` is 'gpt2' for byte-level BPE, whose rule that divides texts is named by `tokenizer.ggml.pre`, or
'llama' for a SentencePiece model.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from prompt_tuning.files.gguf_config import end_ids
from prompt_tuning.files.gguf_file import GgufFile
from prompt_tuning.files.json_files import shown

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # types of tokens, as SentencePiece has them
_ROLES = {'bos': 'bos', 'eos': 'eos', 'unk': 'unknown', 'pad': 'padding', 'sep': 'seperator', 'mask': 'mask'}
_SENTENCEPIECE_IDS = {'bos': 1, 'eos': 2, 'unk': 0}  # of a file that does not say
_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r'|\s+(?!\S)|\s+')
_QWEN2 = _LLAMA3.replace('{1,3}', '')
_TEKKEN = (r'[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+'
           r'|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*'
           r'|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+')
_RULES = {'llama-bpe': _LLAMA3, 'llama3': _LLAMA3, 'llama-v3': _LLAMA3, 'qwen2': _QWEN2, 'tekken': _TEKKEN}
_WHOLE = ('llama-bpe', 'llama3', 'llama-v3', 'tekken')  # a word that is a token is not made of merges; texts begin
_PRE = ('gpt-2', 'smollm', *_RULES)
# Keys that change nothing here.
_NEUTRAL = ('model', 'pre', 'tokens', 'token_type', 'scores', 'merges', 'add_bos_token', 'token_type_count',
            *(f'{role}_token_id' for role in (
              *_ROLES.values(), 'eot', 'eom', 'cls', 'fim_pre', 'fim_suf', 'fim_mid', 'fim_pad', 'fim_rep', 'fim_sep',
              'prefix', 'suffix', 'middle')))


def tokenizer_kind(file: GgufFile) -> str:
  """Returns the name of the tokenizer's main file; '' if there is none."""
  kind = file.values.get('tokenizer.ggml.model', 'none')
  return '' if kind in ('none', 'no_vocab') else 'tokenizer.model' if kind == 'llama' else 'tokenizer.json'


def tokenizer_json(file: GgufFile) -> bytes:
  """Returns `tokenizer.json` of a byte-level BPE.

  Raises:
    ValueError: the tokenizer is of another kind, or has a key that is not supported.
  """
  _require_known(file, spaces=False)
  kind, pre = file.values['tokenizer.ggml.model'], file.values.get('tokenizer.ggml.pre')
  if kind != 'gpt2':
    raise ValueError(f'{file.path} sets tokenizer.ggml.model to {kind!r}; supported are gpt2 and llama. '
                     'Give the vocabulary of the model as a file of its folder.')
  if pre not in _PRE:
    raise ValueError(f'{file.path} sets tokenizer.ggml.pre to {pre!r}; the rules that divide texts are known for '
                     f'{", ".join(_PRE)}. Give the vocabulary of the model as a file of its folder.')
  tokens, types = _tokens(file)
  ids = {token: i for i, token in enumerate(tokens)}
  if len(ids) < len(tokens):
    twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
    raise ValueError(f'{file.path} has the token {twice!r} twice. Get the file again.')
  merges = [merge.split(' ') for merge in file.values.get('tokenizer.ggml.merges', ())]
  wrong = next((pair for pair in merges if len(pair) != 2 or not {*pair, ''.join(pair)} <= ids.keys()), None)
  if wrong is not None or not merges:
    raise ValueError(f'{file.path}: tokenizer.ggml.merges holds {" ".join(wrong or ["nothing"])!r}; expected pairs of '
                     'tokens whose union is a token too. Get the file again.')
  words = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': pre not in _RULES}
  before = {'type': 'Split', 'pattern': {'Regex': _RULES[pre]}, 'behavior': 'Isolated', 'invert': False} if (
    pre in _RULES) else {'type': 'Digits', 'individual_digits': True} if pre == 'smollm' else None
  roles = _roles(file, tokens)
  starts = file.values.get('tokenizer.ggml.add_bos_token', pre in _WHOLE) and 'bos' in roles
  return json.dumps({
    'version': '1.0', 'truncation': None, 'padding': None,
    'added_tokens': [{'id': i, **token} for i, token in _added(tokens, types)],
    'normalizer': {'type': 'NFC'} if pre == 'qwen2' else None,
    'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': [before, words]} if before else words,
    'post_processor': _beginning(roles['bos'], ids) if starts else None,
    'decoder': {'type': 'ByteLevel', 'add_prefix_space': True, 'trim_offsets': True, 'use_regex': True},
    'model': {'type': 'BPE', 'dropout': None, 'unk_token': None, 'continuing_subword_prefix': None,
              'end_of_word_suffix': None, 'fuse_unk': False, 'byte_fallback': False, 'ignore_merges': pre in _WHOLE,
              'vocab': ids, 'merges': merges}}, ensure_ascii=False).encode()


def tokenizer_model(file: GgufFile) -> bytes:
  """Returns `tokenizer.model` of a SentencePiece BPE.

  Raises:
    ValueError: the tokenizer has a key that is not supported.
  """
  _require_known(file, spaces=True)
  tokens, types = _tokens(file)
  scores = file.values.get('tokenizer.ggml.scores', ())
  if len(scores) < len(tokens):
    raise ValueError(f'{file.path} has {len(scores)} tokenizer.ggml.scores for {len(tokens)} tokens. Get the file '
                     'again.')
  # SentencePiece's ModelProto: 1 pieces (1 text, 2 score, 3 type), 2 how it was trained (3 BPE, 35 bytes, 45 unknown
  # piece), 3 the normaliser (3 a space before the text, 4 without repeated ones).
  pieces = (_field(1, token.replace(' ', '▁').encode()) + _number(2, score) + _count(3, kind)
            for token, score, kind in zip(tokens, scores, types, strict=False))
  unknown = _roles(file, tokens).get('unk', '<unk>')
  trained = _count(3, 2) + _count(35, int(_BYTE in types)) + _field(45, unknown.encode())
  normaliser = (_count(3, int(file.values.get('tokenizer.ggml.add_space_prefix', True)))
                + _count(4, int(file.values.get('tokenizer.ggml.remove_extra_whitespaces', False))))
  return b''.join(_field(1, piece) for piece in pieces) + _field(2, trained) + _field(3, normaliser)


def tokenizer_config(file: GgufFile) -> dict[str, Any]:
  """Returns `tokenizer_config.json`."""
  tokens, types = _tokens(file)
  found: dict[str, Any] = {f'{role}_token': text for role, text in _roles(file, tokens).items()}
  found['tokenizer_class'] = 'PreTrainedTokenizerFast'
  if tokenizer_kind(file) == 'tokenizer.model':
    found['add_bos_token'] = bool(file.values.get('tokenizer.ggml.add_bos_token', True))
    if file.values.get('tokenizer.ggml.add_space_prefix') is False:
      found['add_prefix_space'] = False
    # Spaces are pieces of the model, which sees them in its own spelling.
    found['added_tokens_decoder'] = {str(i): token for i, token in _added(tokens, types)
                                     if token['content'].strip(' ▁')}
  return found


def _require_known(file: GgufFile, *, spaces: bool) -> None:
  """Raises ValueError if the tokenizer has a key that is not supported.

  Args:
    file: the file.
    spaces: the kind of the tokenizer has rules for spaces.
  """
  same = {'add_eos_token': False, 'add_sep_token': False, 'precompiled_charsmap': []}
  same |= {} if spaces else {'add_space_prefix': False, 'remove_extra_whitespaces': False}
  free = (*_NEUTRAL, 'add_space_prefix', 'remove_extra_whitespaces') if spaces else _NEUTRAL
  for key, value in file.values.items():
    name = key.removeprefix('tokenizer.ggml.')
    if name == key or name in free or (name in same and value == same[name]):
      continue
    wanted = f'expected {same[name]}' if name in same else 'this key is not supported'
    raise ValueError(f'{file.path} sets {key} to {shown(value)}; {wanted}. Give the vocabulary of the model as a file '
                     'of its folder.')


def _tokens(file: GgufFile) -> tuple[list[str], list[int]]:
  """Returns the tokens and their types, without the unused ones at the end, which fill up the embedding."""
  tokens = list(file.values.get('tokenizer.ggml.tokens', ()))
  types = list(file.values.get('tokenizer.ggml.token_type') or [_NORMAL] * len(tokens))
  if not tokens or len(tokens) != len(types):
    raise ValueError(f'{file.path} has {len(tokens)} tokenizer.ggml.tokens with {len(types)} types. Get the file '
                     'again.')
  while types and types[-1] == _UNUSED:
    types.pop()
  return tokens[:len(types)], types


def _roles(file: GgufFile, tokens: Sequence[str]) -> dict[str, str]:
  """Returns role -> token."""
  defaults = _SENTENCEPIECE_IDS if tokenizer_kind(file) == 'tokenizer.model' else {}
  found, ends = {}, end_ids(file)
  for role, name in _ROLES.items():
    key = f'tokenizer.ggml.{name}_token_id'
    number = ends[0] if role == 'eos' and ends else file.values.get(key, defaults.get(role))
    if number is None or number == -1 or number == 2**32 - 1:  # which stand for none
      continue
    if not isinstance(number, int) or not 0 <= number < len(tokens):
      raise ValueError(f'{file.path} sets {key} to {number}, but has {len(tokens)} tokens. Get the file again.')
    found[role] = tokens[number]
  return found


def _added(tokens: Sequence[str], types: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields the id and the description of each token that is matched in a text."""
  for i, (token, kind) in enumerate(zip(tokens, types, strict=True)):
    if kind in (_CONTROL, _USER_DEFINED):
      yield i, {'content': token, 'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False,
                'special': kind == _CONTROL}


def _beginning(token: str, ids: dict[str, int]) -> dict[str, Any]:
  """Returns the post-processor that puts a token before a text."""
  first, text = {'SpecialToken': {'id': token, 'type_id': 0}}, {'Sequence': {'id': 'A', 'type_id': 0}}
  return {'type': 'TemplateProcessing', 'single': [first, text],
          'pair': [first, text, {'Sequence': {'id': 'B', 'type_id': 1}}],
          'special_tokens': {token: {'id': token, 'ids': [ids[token]], 'tokens': [token]}}}


def _field(number: int, content: bytes) -> bytes:
  return _varint(number << 3 | 2) + _varint(len(content)) + content


def _count(number: int, value: int) -> bytes:
  return _varint(number << 3) + _varint(value)


def _number(number: int, value: float) -> bytes:
  return _varint(number << 3 | 5) + struct.pack('<f', value)


def _varint(value: int) -> bytes:
  found = bytearray()
  while value > 0x7F:
    found.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes([*found, value])
