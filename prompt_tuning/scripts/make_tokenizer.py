"""Writes a tokenizer for table-to-text: a byte-level BPE trained on a file of pairs `meaning||text`, plain or .gz.

Nearly all words of the file become one token; other words are split into pieces, so any text can be encoded. Writes
tokenizer.json and tokenizer_config.json, which name `<pad>` (0) and the end token `</s>` (1).
"""

import sys
from collections.abc import Sequence

from prompt_tuning.scripts import _script

SIZE = 2048


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the script; returns the exit status."""
  flags = _script.parser('make_tokenizer', __doc__)
  flags.add_argument('--pairs', required=True, help='the file of pairs, local or gs://')
  flags.add_argument('--output_dir', required=True, help='the folder to write the two files to')
  flags.add_argument('--size', type=int, default=SIZE, help='the maximum number of tokens; default %(default)s')
  return _script.run(flags, argv, _make)


def _make(options) -> None:
  from prompt_tuning.data import byte_level_bpe, table_to_text, vocabulary_folders
  from prompt_tuning.files import storage

  texts = [text for pair in table_to_text.read_pairs(options.pairs) for text in pair]
  for name, content in byte_level_bpe.train_tokenizer(texts, options.size).items():
    storage.write_bytes(storage.join(options.output_dir, name), content.encode())
  found = vocabulary_folders.load_vocabulary(options.output_dir)
  print(f'Wrote {found.path}: {found.size} tokens')


if __name__ == '__main__':
  sys.exit(main())
