"""Byte-level BPE tokenizers as `tokenizer.json`: made of `vocab.json` and `merges.txt`, or trained."""

import json
from collections.abc import Iterable

_SPECIALS = {'pad_token': '<pad>', 'eos_token': '</s>'}  # of trained tokenizers
# Qwen's rule that divides a text into words; GPT-2's is built into the library.
_QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
         r'|\s+')
CLASSES = ('GPT2Tokenizer', 'RobertaTokenizer', 'Qwen2Tokenizer')


def tokenizer_json(kind: str, vocab: bytes, merges: bytes, *, prefix_space: bool = False) -> bytes:
  """Returns the `tokenizer.json` of `vocab.json` and `merges.txt`. It prepends nothing to a text.

  Args:
    kind: one of `CLASSES`.
    vocab: the content of `vocab.json`, a JSON object token -> id.
    merges: the content of `merges.txt`, two tokens a line, in the order in which they are merged.
    prefix_space: a text without a space at its start gets one.

  Raises:
    ValueError: a file is damaged.
  """
  from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

  ids = json.loads(vocab)
  if not isinstance(ids, dict) or not all(isinstance(i, int) and i >= 0 for i in ids.values()):
    raise ValueError('vocab.json is not an object token -> id')
  lines = [line.rstrip('\r') for line in merges.decode().split('\n')]
  pairs = [(number, tuple(line.split(' '))) for number, line in enumerate(lines, start=1)
           if line.strip() and not line.startswith('#version')]
  for number, pair in pairs:
    if len(pair) != 2 or not {*pair, ''.join(pair)} <= ids.keys():
      raise ValueError(f'line {number} of merges.txt, {" ".join(pair)!r:.60}, is not two tokens of vocab.json whose '
                       'union is a token too')
  tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[pair for _, pair in pairs]))
  words = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=kind != 'Qwen2Tokenizer')
  if kind == 'Qwen2Tokenizer':
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_QWEN), 'isolated'), words])
  tokenizer.pre_tokenizer, tokenizer.decoder = words, decoders.ByteLevel()
  return tokenizer.to_str().encode()


def train_tokenizer(texts: Iterable[str], size: int) -> dict[str, str]:
  """Trains a byte-level BPE on `texts` and returns its files, name -> content; it can encode any other text too.

  `<pad>` is 0 and `</s>`, the end token, is 1. Pairs that occur only once are not merged, so the vocabulary may be
  smaller than `size`.

  Raises:
    ValueError: `size` is too small for all bytes.
  """
  import tokenizers

  least = len(_SPECIALS) + 256
  if size < least:
    raise ValueError(f'size={size} is too small for a tokenizer: bytes and special tokens take {least} ids. '
                     'Use a larger size.')
  bytewise = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer, tokenizer.decoder = bytewise, tokenizers.decoders.ByteLevel()
  tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(
    vocab_size=size, min_frequency=2, special_tokens=list(_SPECIALS.values()),
    initial_alphabet=bytewise.alphabet(), show_progress=False))
  return {'tokenizer.json': tokenizer.to_str(pretty=True) + '\n',
          'tokenizer_config.json': json.dumps(_SPECIALS, indent=1) + '\n'}
