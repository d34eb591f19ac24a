"""Reads the vocabulary of a model folder."""

import json
from typing import Any

from prompt_tuning.data.vocabularies import SentencePieceVocabulary, TokenizersVocabulary, Vocabulary
from prompt_tuning.files import storage

FILES = ('tokenizer.json', 'spiece.model', 'sentencepiece.model', 'tokenizer.model')  # the last is Llama's and Gemma's


def load_vocabulary(path: str) -> Vocabulary:
  """Returns the vocabulary of a model folder, or of one vocabulary file.

  A folder's `tokenizer.json` is preferred. `tokenizer_config.json` may name the special tokens; otherwise `config.json`
  names the end token. Additional tokens that end a generation come from `generation_config.json`, else `config.json`.

  Raises:
    FileNotFoundError: there is no vocabulary; the message lists the files tried.
  """
  candidates = [str(path)] if str(path).endswith(('.json', '.model')) else [storage.join(path, f) for f in FILES]
  for candidate in candidates:
    if storage.exists(candidate):
      return _open_file(candidate)
  raise FileNotFoundError(f'{path} holds no vocabulary: looked for {", ".join(candidates)}. '
                          "Copy the model's tokenizer file there, or give its path as the vocabulary.")


def _open_file(path: str) -> Vocabulary:
  folder, _, file = path.rpartition('/')
  named = _read_object(storage.join(folder or '.', 'tokenizer_config.json'),
                       'it, or remove it if the end token is </s>')
  ends = _end_ids(folder or '.')
  if file == 'tokenizer.model':
    return SentencePieceVocabulary(path, extra_ids=0, starts=named.get('add_bos_token', True), ends=ends)
  if file.endswith('.model'):
    return SentencePieceVocabulary(path, starts=named.get('add_bos_token', False), ends=ends)
  if file != 'tokenizer.json':
    return TokenizersVocabulary(path)
  tokens = {role: _token_text(named.get(f'{role}_token')) for role in ('eos', 'pad', 'bos')} if named else {}
  end = tokens.get('eos')
  if end is None:  # as in GPT-2's tokenizer_config.json
    end = ends[0] if ends else '</s>'
  return TokenizersVocabulary(path, **tokens | {'eos': end, 'ends': ends})


def _end_ids(folder: str) -> list[int]:
  for file in ('generation_config.json', 'config.json'):
    found = _read_object(storage.join(folder, file), 'it').get('eos_token_id')
    if found is not None:
      return found if isinstance(found, list) else [found]
  return []


def _read_object(path: str, what: str) -> dict[str, Any]:
  """Returns the content of a JSON file, or {} if it does not exist."""
  if not storage.exists(path):
    return {}
  try:
    return json.loads(storage.read_bytes(path))
  except ValueError as error:
    raise ValueError(f'{path} is not valid JSON ({error}). Fix {what}.') from error


def _token_text(entry: str | dict | None) -> str | None:
  return entry.get('content') if isinstance(entry, dict) else entry
