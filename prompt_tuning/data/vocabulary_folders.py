"""Reads the vocabulary of a model folder."""

from collections.abc import Callable

from prompt_tuning.data import byte_level_bpe, token_files
from prompt_tuning.data.token_files import TokenFacts
from prompt_tuning.data.vocabularies import ByteVocabulary, SentencePieceVocabulary, TokenizersVocabulary, Vocabulary
from prompt_tuning.files import model_files, storage

FILES = ('tokenizer.json', 'spiece.model', 'sentencepiece.model', 'tokenizer.model', 'vocab.json')
COPIED = (*FILES, 'merges.txt', *token_files.FILES, 'chat_template.jinja')  # with a model
EXTRA_IDS = 100  # T5's sentinels


def load_vocabulary(path: str, extra_ids: int | None = None) -> Vocabulary:
  """Returns the vocabulary of a model folder or GGUF file, or of one vocabulary file, which its folder completes.

  A folder's `tokenizer.json` is preferred, and what it says wins over the other files. `docs/inference.md` lists them.

  Args:
    path: the folder or file, local or `gs://`; a GGUF file is local.
    extra_ids: the number of sentinels of a SentencePiece model; None is the number that the folder states, else 100,
      or 0 for Llama's `tokenizer.model`.

  Raises:
    FileNotFoundError: there is no vocabulary; the message lists the files tried.
    ValueError: a file is damaged.
  """
  path = str(path)
  named = path.endswith(('.json', '.model'))
  folder = path.rpartition('/')[0] or '.' if named else path
  files = [path.rpartition('/')[2]] if named else FILES
  for file in files:
    found = path if named else storage.join(folder, file)
    if model_files.exists(found) or (named and storage.is_remote(found)):
      vocabulary = _READERS.get(file, _other_file)(found, folder, extra_ids)
      if vocabulary is not None:
        return vocabulary
  if not named:
    facts = token_files.read_token_facts(folder)
    if facts.tokenizer_class == ByteVocabulary.tokenizer_class:
      return ByteVocabulary(125 if facts.extra_ids is None else facts.extra_ids, added=facts.added, ends=facts.ends,
                            path=storage.join(folder, token_files.FILES[0]))
  looked_for = path if named else ', '.join(files)
  raise FileNotFoundError(f'{folder} holds no vocabulary that can be read: looked for {looked_for}. {advice(folder)}')


def advice(folder: str) -> str:
  """Returns how a folder without a vocabulary gets one."""
  return (f'If the folder has another tokenizer, transformers makes a tokenizer.json: python -c "from transformers '
          f'import AutoTokenizer as T; T.from_pretrained({folder!r}).save_pretrained({folder!r})". Otherwise copy the '
          "model's tokenizer files there, or give vocabulary=FILE.")


def _tokenizer_json(path: str, folder: str, extra_ids: int | None) -> Vocabulary:
  _require_no_extra_ids(path, extra_ids)
  facts = token_files.read_token_facts(folder)
  return TokenizersVocabulary(path, **_roles(facts), added=facts.added)


def _vocab_json(path: str, folder: str, extra_ids: int | None) -> Vocabulary | None:
  """Returns a vocabulary of `vocab.json` and `merges.txt`; None if they belong to another class of tokenizers."""
  facts, merges = token_files.read_token_facts(folder), storage.join(folder, 'merges.txt')
  if facts.tokenizer_class not in byte_level_bpe.CLASSES or not storage.exists(merges):
    return None
  _require_no_extra_ids(path, extra_ids)
  try:
    content = byte_level_bpe.tokenizer_json(
      facts.tokenizer_class, storage.read_bytes(path), storage.read_bytes(merges),
      prefix_space=bool(facts.add_prefix_space))
  except Exception as error:  # the tokenizers library raises plain exceptions
    raise ValueError(f'The tokenizer of {path} and merges.txt cannot be made: {error}. Download them again.') from error
  starts = bool(facts.add_bos_token) or facts.tokenizer_class == 'RobertaTokenizer'
  return TokenizersVocabulary(path, **_roles(facts), added=facts.with_defaults(), starts=starts, content=content)


def _roles(facts: TokenFacts) -> dict[str, object]:
  """Returns the end, padding and begin tokens, the mask, and further ends."""
  names, defaults = facts.names, facts.defaults
  if 'eos' in names:
    eos = names['eos']
  elif 'eos' in defaults:
    eos = (defaults['eos'], *facts.ends[:1])
  else:
    eos = facts.ends[0] if facts.ends else '</s>'
  plain = not facts.tokenizer_class and not facts.described  # as this package's own tokenizers are
  pad = names.get('pad', (defaults['pad'],) if 'pad' in defaults else ('<pad>',) if plain else None)
  return {'eos': eos, 'pad': pad, 'bos': names.get('bos', (defaults['bos'],) if 'bos' in defaults else None),
          'mask': tuple(filter(None, [names.get('mask', defaults.get('mask'))])), 'ends': facts.ends}


def _hugging_face_model(path: str, folder: str, extra_ids: int | None) -> Vocabulary:
  """Returns the vocabulary of `spiece.model`, T5's, or `tokenizer.model`, Llama's and Gemma's."""
  facts, of_t5 = token_files.read_token_facts(folder), path.endswith('spiece.model')
  counts = (extra_ids, facts.extra_ids, EXTRA_IDS if of_t5 else 0)
  starts = not of_t5 if facts.add_bos_token is None else facts.add_bos_token
  # Only Llama's class knows "legacy", and transformers reads Mistral's folders with another one.
  each = facts.legacy and facts.tokenizer_class == 'LlamaTokenizer' and facts.model_type != 'mistral'
  spaces = 'all' if of_t5 else 'none' if facts.add_prefix_space is False else 'each' if each else 'first'
  return SentencePieceVocabulary(path, next(count for count in counts if count is not None), starts, facts.ends,
                                 names=facts.names, added=facts.added, spaces=spaces)


def _other_file(path: str, folder: str, extra_ids: int | None) -> Vocabulary:
  """Returns the vocabulary of a file with any name, or of SeqIO's `sentencepiece.model`."""
  if path.endswith('.json'):
    _require_no_extra_ids(path, extra_ids)
    return TokenizersVocabulary(path)
  if storage.is_remote(path):  # SeqIO's vocabularies have no files next to them
    return SentencePieceVocabulary(path, EXTRA_IDS if extra_ids is None else extra_ids)
  facts = token_files.read_token_facts(folder)
  counts = (extra_ids, facts.extra_ids, EXTRA_IDS)
  return SentencePieceVocabulary(path, next(count for count in counts if count is not None),
                                 bool(facts.add_bos_token), facts.ends)


def _require_no_extra_ids(path: str, extra_ids: int | None) -> None:
  if extra_ids is not None:
    raise ValueError(f'extra_ids={extra_ids} cannot be used with {path}, which lists its own tokens. Only a '
                     'SentencePiece model gets sentinels. Remove extra_ids.')


_READERS: dict[str, Callable[[str, str, int | None], Vocabulary | None]] = {
  'tokenizer.json': _tokenizer_json, 'spiece.model': _hugging_face_model, 'tokenizer.model': _hugging_face_model,
  'vocab.json': _vocab_json}
