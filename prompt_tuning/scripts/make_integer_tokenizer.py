"""Writes the `tokenizer.json` of the integer tasks: one token per number, with numbers separated by spaces.

  python3 -m prompt_tuning.scripts.make_integer_tokenizer FOLDER
"""

import json
import os
import sys

from prompt_tuning.files import storage

SIZE = 32  # rows of the embedding: three special tokens and the numbers 0 to 28


def tokenizer() -> dict:
  """Returns the content of `tokenizer.json`: T5's ids for padding (0), end (1) and unknown (2), then the numbers."""
  specials = ['<pad>', '</s>', '<unk>']
  words = [*specials, *(str(number) for number in range(SIZE - len(specials)))]
  added = [{'id': i, 'content': token, 'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False,
            'special': True} for i, token in enumerate(specials)]
  return {
    'version': '1.0', 'truncation': None, 'padding': None, 'added_tokens': added, 'normalizer': None,
    'pre_tokenizer': {'type': 'WhitespaceSplit'}, 'post_processor': None, 'decoder': None,
    'model': {'type': 'WordLevel', 'vocab': {word: i for i, word in enumerate(words)}, 'unk_token': '<unk>'}}


def main() -> None:
  """Writes the file into the folder given on the command line."""
  if len(sys.argv) != 2 or sys.argv[1].startswith('-'):
    sys.exit(__doc__)
  path = os.path.join(sys.argv[1], 'tokenizer.json')
  storage.write_bytes(path, (json.dumps(tokenizer(), indent=1) + '\n').encode())
  print(f'Wrote {path}')


if __name__ == '__main__':
  main()
