"""Rows of files with columns: JSONL, TSV and CSV, plain or compressed, Parquet, and tables of the Hugging Face hub.

A JSONL file has one JSON object per line; its keys are the columns, which may be those of a conversation. The first
line of a TSV or CSV file names the columns. Values may be quoted, as in spreadsheets, and only those of CSV may contain
line breaks; in a TSV file with a value such as `"Good" film`, which no quoting gives, all quotation marks are part of
the texts.
"""

import contextlib
import csv
import functools
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from absl import logging

from prompt_tuning.data import hub_tables, parquet
from prompt_tuning.data.tasks import HUB, is_table
from prompt_tuning.data.templates import Row
from prompt_tuning.data.vocabulary import require_whole
from prompt_tuning.files import storage

_MARK = b'\xef\xbb\xbf'  # the byte order mark that some editors write
_LINE_BYTES = 64 * 2**20
# A value that begins with a quotation mark, and goes on after the quotation.
_UNQUOTED = re.compile(r'(?:^|\t)"(?:[^"]|"")*"(?!["\t]|$)')
csv.field_size_limit(2**31 - 1)  # a document may be a single value


def read_table(path: str) -> list[Row]:
  """Returns `path:line` and the columns of every row of a file, or of a table of the hub; blank lines are skipped.

  Raises:
    ValueError: a line cannot be read, or the file has no rows; the message names file and line.
  """
  if path.startswith('hf:') and not path.startswith(HUB):
    raise ValueError(f'{path} is not the address of a data set of the Hugging Face hub. Give {HUB}OWNER/NAME.')
  if not is_table(path):
    raise ValueError(no_table(path))
  if path.startswith(HUB):
    here = hub_tables.local_file(path)
    return _numbered(path, hub_tables.read(path)) if here is None else read_table(here)
  ending = os.path.splitext(path.lower().removesuffix('.gz'))[1]
  if ending == '.parquet':
    return _numbered(path, parquet.read(path))
  lines = read_lines(path)
  if ending == '.jsonl':
    rows = [(f'{path}:{number}', _json_object(path, number, line)) for number, line in lines if line.strip()]
  else:
    rows = _separated_rows(path, [line for _, line in lines], ',' if ending == '.csv' else '\t')
  return _some(path, rows)


def _numbered(path: str, rows: Sequence[dict[str, Any]]) -> list[Row]:
  """Returns the rows of a table without lines, each after its number from 1, for messages."""
  return _some(path, [(f'{path}: row {number}', row) for number, row in enumerate(rows, 1)])


def _some(path: str, rows: list[Row]) -> list[Row]:
  if not rows:
    raise ValueError(f'{path} holds no examples. Write one JSON object per line or, for TSV and CSV, a line of column '
                     'names followed by one example per line.')
  return rows


def no_table(path: str) -> str:
  """Returns the message for a file that has another ending than those of tables, or for a folder.

  Raises:
    FileNotFoundError: it does not exist.
  """
  kinds = ('a .jsonl file with one JSON object a line, a .tsv or .csv file whose first line names the columns, or a '
           '.parquet file')
  if os.path.isdir(path):
    return f'{path} is a folder, not a file of examples. Give {kinds}.'
  line = ''
  with contextlib.suppress(ValueError, PermissionError):
    line = next((line for _, line in read_lines(path) if line.strip()), '')
  with contextlib.suppress(ValueError, RecursionError):
    if isinstance(json.loads(line), dict):
      new = f'{os.path.splitext(path.removesuffix(".gz"))[0]}.jsonl{".gz" * path.endswith(".gz")}'
      return f'{path} holds one JSON object a line, but has another ending than .jsonl. Rename it to {new}.'
  return f'{path} is a file of another kind: expected {kinds}. Convert it. In Python, examples may be a DataFrame.'


def _json_object(path: str, number: int, line: str) -> dict[str, Any]:
  try:
    found = json.loads(line, object_pairs_hook=_unique)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path}:{number}: not JSON ({error}); found {line.strip()[:60]!r}. '
                     'Write one JSON object per line.') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path}:{number}: found {line.strip()[:60]!r}, expected a JSON object such as '
                     '{"inputs": "…", "targets": "…"}.')
  if '\\u' in line:
    for column, value in found.items():
      text = value if isinstance(value, str) else json.dumps([column, value], ensure_ascii=False)
      require_whole(text, f'{path}:{number}: column {column!r}: ')
  return found


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    names = [name for name, _ in pairs]
    raise ValueError(f'the key {next(name for name in names if names.count(name) > 1)!r} occurs twice')
  return found


def _separated_rows(path: str, lines: Sequence[str], separator: str) -> list[Row]:
  first = next((i for i, line in enumerate(lines, 1) if _UNQUOTED.search(line)), 0) if separator == '\t' else 0
  plain = first > 0
  if plain:
    _note_quotes(path, first)
  reader = csv.reader((f'{line}\n' for line in lines), delimiter=separator, strict=True,
                      quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL)
  names: list[str] = []
  rows = []
  while True:
    number = reader.line_num + 1
    where = f'{path}:{number}'
    try:
      values = next(reader, None)
    except csv.Error as error:
      raise ValueError(f'{where}: {error}; found {lines[number - 1][:60]!r}. A value that begins with a quotation mark '
                       'must end with one, and those inside it are doubled. Fix the line, or write JSONL.') from error
    if values is None:
      return rows
    if separator == '\t' and reader.line_num > number:
      raise ValueError(f'{where}: a value begins with a quotation mark and ends in line {reader.line_num}; values of a '
                       'TSV file have no line breaks. Close the quotation, double a quotation mark that is part of the '
                       'text and quote the value, or write CSV or JSONL.')
    if not any(value.strip() for value in values):
      continue  # a blank line
    if not names:
      names = values
      if len(set(names)) < len(names):
        raise ValueError(f'{where}: the first line names a column twice ({", ".join(names)}). '
                         'Give each column a unique name.')
    elif len(values) != len(names):
      raise ValueError(f'{where}: found {len(values)} columns, but the first line names {len(names)} '
                       f'({", ".join(names)}). Separate values with single {"tabs" if separator != "," else "commas"}, '
                       'and quote a value that contains one.')
    else:
      rows.append((where, dict(zip(names, values, strict=True))))


@functools.cache  # a run reads its file several times
def _note_quotes(path: str, line: int) -> None:
  logging.warning('%s:%d has a value that goes on after its quotation, so no value of the file is taken as quoted: all '
                  'quotation marks are part of the texts.', path, line)


def read_lines(path: str) -> Iterator[tuple[int, str]]:
  """Yields the lines of a text file, plain or .gz, with their numbers from 1; only line feeds end a line.

  A compressed file is unpacked line by line.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file is not UTF-8, its gzip data is damaged, or a line is too long to be an example.
  """
  number = 0
  try:
    with _opened(path) as file:
      while line := file.readline(_LINE_BYTES + 1):
        number += 1
        if len(line) > _LINE_BYTES:
          raise ValueError(f'{path}:{number}: the line is longer than {_LINE_BYTES:,} bytes. Write one example a line.')
        line = line.removeprefix(_MARK) if number == 1 else line
        if line:
          yield number, line.removesuffix(b'\n').decode().removesuffix('\r')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}). '
                     'Save it as UTF-8. Files of text are read (.jsonl, .tsv, .csv, others), also as .gz.') from error
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{path}: there is no such file. Give the path of a file of examples.') from error
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise ValueError(f'{path} is not a complete gzip file ({error}). Copy it again, or unpack it.') from error


def _opened(path: str) -> IO[bytes]:
  source = io.BytesIO(storage.read_bytes(path)) if storage.is_remote(path) else path
  if str(path).lower().endswith('.gz'):
    return gzip.open(source)
  return open(path, 'rb') if source is path else source
