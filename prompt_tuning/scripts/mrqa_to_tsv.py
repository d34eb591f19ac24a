"""Converts an MRQA file into a table with one line per question.

  python3 -m prompt_tuning.scripts.mrqa_to_tsv --jsonl=BioASQ.jsonl.gz --output=bio_asq.tsv

The first line of an MRQA file is a header object, which is skipped; then comes an object for each context:
{"context": ..., "qas": [{"qid": ..., "question": ..., "answers": [...]}, ...]}. It may be compressed with gzip.

The columns:
  id        the question's `qid`
  question  its text
  context   the text that holds the answer
  answer    its first answer, empty if there is none
  answers   all answers, as a JSON list

Tabs, line breaks and the delimiter inside values become a space. With a delimiter that JSON needs, such as a comma,
`answers` is therefore not valid JSON.
"""

import argparse
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from prompt_tuning.scripts import _script

COLUMNS = ('id', 'question', 'context', 'answer', 'answers')
_GZIP = b'\x1f\x8b'
_TRUTHS = {'true': True, 't': True, '1': True, 'yes': True, 'false': False, 'f': False, '0': False, 'no': False}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the script from the command line; returns the exit status."""
  parser = _script.parser('mrqa_to_tsv', __doc__)
  add = parser.add_argument
  add('--jsonl', required=True, metavar='FILE', help='the MRQA file, .jsonl or .jsonl.gz, local or gs://')
  add('--header', nargs='?', const=True, default=True, type=_truth, metavar='true|false',
      help='whether the first line names the columns, as TSV tasks require; default: true')
  add('--noheader', dest='header', action='store_false', help='the same as --header=false')
  add('--delim', default='\t', type=lambda text: text.replace('\\t', '\t'), metavar='TEXT',
      help='the delimiter between columns; default: a tab, which may be written \\t')
  add('--output', metavar='FILE', help="the file to write; default: the input's name with .tsv")
  return _script.run(parser, argv, _convert)


def read_questions(path: str) -> Iterator[dict[str, str]]:
  """Yields the columns of each question of an MRQA file.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: a line is not in MRQA's format.
  """
  from prompt_tuning.files import storage

  if not storage.exists(path):
    raise FileNotFoundError(f'{path}: there is no such file. Check --jsonl.')
  file = io.BytesIO(storage.read_bytes(path))
  return _questions(path, gzip.GzipFile(fileobj=file) if file.getvalue().startswith(_GZIP) else file)


def _questions(path: str, file: BinaryIO) -> Iterator[dict[str, str]]:
  number = 0
  try:
    for line in file:
      number += 1
      entry = json.loads(line) if line.strip() else {'header': None}
      if 'header' in entry and 'qas' not in entry:
        continue
      for question in entry['qas']:
        answers = question.get('answers') or []
        yield {'id': str(question['qid']), 'question': str(question['question']), 'context': str(entry['context']),
               'answer': str(answers[0]) if answers else '', 'answers': json.dumps(answers, ensure_ascii=False)}
  except (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, RecursionError, zlib.error) as error:
    raise ValueError(
      f'{path}:{number}: {type(error).__name__}: {error}. Expected a line of MRQA: '
      '{"context": ..., "qas": [{"qid": ..., "question": ..., "answers": [...]}]}. Download the file again.') from error


def _convert(options: argparse.Namespace) -> None:
  from prompt_tuning.files import storage

  if options.delim != '\t' and (options.delim.isalnum() or options.delim.strip() != options.delim or not options.delim):
    raise ValueError(f'--delim={options.delim!r} cannot separate columns. Use a tab, | or a similar character.')
  output = options.output or re.sub(r'(\.jsonl?)?(\.gz)?$', '', options.jsonl) + '.tsv'
  unwanted = re.compile(rf'[\t\r\n]|{re.escape(options.delim)}')
  count = 0
  questions = read_questions(options.jsonl)
  with storage.whole_file(output) as temporary, open(temporary, 'w', encoding='utf-8', newline='\n') as file:
    if options.header:
      file.write(options.delim.join(COLUMNS) + '\n')
    for question in questions:
      file.write(options.delim.join(unwanted.sub(' ', question[name]) for name in COLUMNS) + '\n')
      count += 1
  print(f'Wrote {output}: {count} questions')


def _truth(text: str) -> bool:
  if text.lower() not in _TRUTHS:
    raise argparse.ArgumentTypeError(f'found {text!r}, expected true or false')
  return _TRUTHS[text.lower()]


if __name__ == '__main__':
  sys.exit(main())
