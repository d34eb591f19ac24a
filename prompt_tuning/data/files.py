"""Tasks from the rows of JSONL, TSV and CSV files and of tables in memory, without writing Python.

A JSONL file has one JSON object per line; its keys are the columns, which may be those of a conversation. The first
line of a TSV or CSV file names the columns. Values may be quoted, as in spreadsheets, and only those of CSV may contain
line breaks; in a TSV file with a value such as `"Good" film`, which no quoting gives, all quotation marks are part of
the texts. A template such as "sst2 sentence: {text}" turns a row's columns into a text.
"""

import contextlib
import csv
import functools
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from absl import logging

from prompt_tuning.checks import typed
from prompt_tuning.data import metrics as metric_functions
from prompt_tuning.data import tables
from prompt_tuning.data.row_forms import INPUTS, TARGETS, RowReader
from prompt_tuning.data.tasks import Example, Metric, Task, is_table
from prompt_tuning.data.templates import IN_MEMORY, Row, Templates
from prompt_tuning.data.vocabulary import require_whole
from prompt_tuning.files import storage

_MARK = b'\xef\xbb\xbf'  # the byte order mark that some editors write
_LINE_BYTES = 64 * 2**20
# A value that begins with a quotation mark, and goes on after the quotation.
_UNQUOTED = re.compile(r'(?:^|\t)"(?:[^"]|"")*"(?!["\t]|$)')
csv.field_size_limit(2**31 - 1)  # a document may be a single value


class FileTask(Task):
  """A task whose examples are the rows of a file or of a table. Each keeps its columns as 'row'.

  Splits: 'all' is all of `path`. If `validation` is a fraction, 'train' and 'validation' divide `path` by a hash of
  each row's columns: it does not depend on templates, equal rows stay in one split, and adding or removing rows does
  not move others. If `validation` is a file, 'train' is all of `path`.

  Args:
    path: a .jsonl, .tsv or .csv file, local or `gs://`; or a table in memory, such as a DataFrame (`tables.records`).
    inputs: template of the input text. If both templates are absent, rows may also be conversations, or prompts with
      completions, see `row_forms.RowReader`.
    targets: template of the target text.
    labels: maps values of the columns in `targets` to texts, for example {'0': 'negative', '1': 'positive'}.
    validation: the fraction of rows for validation, or another file or table.
    test: a file or table for the split 'test'.
    metrics: functions, or names for `metrics.get`.
    name: the task's name; the path by default.
    loss_weight: the column that weights each row's targets in the training loss; None weights all equally.
    cut: the side at which a column's text is cut if an example is too long, 'left' or 'right'; a template's own words
      are not cut. Of conversations, whole turns are removed first, then this side of the user's last.
    train_on: the turns of a conversation that are trained, 'all' of the assistant or its 'last'; None if rows are only
      evaluated.
    vocabulary: the model's, whose folder has the chat template, for conversations; or a function that returns it.

  Raises:
    ValueError: a row or a setting cannot be used; the message names it.
  """

  @typed
  def __init__(self, path: Any, *, inputs: str = INPUTS, targets: str = TARGETS,
               labels: Any = None, validation: Any = 0.1, test: Any = None,
               metrics: Sequence[Metric | str] = ('accuracy',), name: str | None = None,
               loss_weight: str | None = None, cut: str = 'right', train_on: str | None = 'all',
               vocabulary: Any = None):
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    twice = next((metric for metric in metrics if metrics.count(metric) > 1), None)
    if twice is not None:
      raise ValueError(f'metrics={",".join(map(str, metrics))} names {twice} twice. Give each metric once.')
    functions = tuple(metric_functions.get(m) if isinstance(m, str) else m for m in metrics)
    make = RowReader(inputs, targets, labels, loss_weight, cut, train_on, vocabulary)
    read = lambda source: make(read_rows(source))
    everything = read(path)
    splits = {'train': everything, 'all': everything}
    if isinstance(validation, int | float):
      if not 0 <= validation < 1:
        raise ValueError(f'validation={validation} is out of range. Give a fraction from 0 to below 1, or the path of '
                         'a file.')
      for split, wanted in (('train', False), ('validation', True)):
        splits[split] = [e for e in everything if (row_share(e['row']) < validation) == wanted]
    else:
      splits['validation'] = read(validation)
    if test is not None:
      splits['test'] = read(test)
    source = str(path) if isinstance(path, str | os.PathLike) else 'examples'
    super().__init__(name or source, splits, functions, source=source, labels=make.label_texts)


def read_inputs(path: str, *, inputs: str = INPUTS, cut: str = 'right', vocabulary: Any = None) -> list[Example]:
  """Returns the examples to predict: the rows of a JSONL, TSV or CSV file, or each line of a text file.

  Args:
    path: the file, local or `gs://`.
    inputs: template of the input text; of a text file, whose lines fill its column, it must have one column.
    cut: see `FileTask`.
    vocabulary: likewise. Of a conversation that ends with the assistant's turn, that turn is predicted.

  Raises:
    ValueError: a row cannot be read, the template has several columns that lines of a text file cannot fill, or the
      text file holds a table.
  """
  if is_table(path):
    return RowReader(inputs, None, cut=cut, vocabulary=vocabulary)(read_table(path))
  fill = Templates(inputs, cut=cut)
  columns = fill.columns('inputs')
  if len(columns) > 1:
    raise ValueError(f'{path} has one text a line, but the template {inputs!r} has the columns {", ".join(columns)}. '
                     'Give a .jsonl, .tsv or .csv file with these columns, or a template with one column.')
  lines = list(read_lines(path))
  _require_texts(path, [line for _, line in lines])
  return [{'inputs': fill((f'{path}:{number}', dict.fromkeys(columns, text)))['inputs']} for number, text in lines]


def read_rows(source: Any) -> list[Row]:
  """Returns the rows of a file or of a table in memory, each after its position for messages."""
  if isinstance(source, str | os.PathLike):
    return read_table(str(source))
  return [(f'{IN_MEMORY}{i}]', row) for i, row in enumerate(tables.records(source))]


def read_table(path: str) -> list[Row]:
  """Returns `path:line` and the columns of every row of a JSONL, TSV or CSV file; blank lines are skipped.

  Raises:
    ValueError: a line cannot be read, or the file has no rows; the message names file and line.
  """
  if not is_table(path):
    raise ValueError(no_table(path))
  ending = os.path.splitext(path.lower().removesuffix('.gz'))[1]
  lines = read_lines(path)
  if ending == '.jsonl':
    rows = [(f'{path}:{number}', _json_object(path, number, line)) for number, line in lines if line.strip()]
  else:
    rows = _separated_rows(path, [line for _, line in lines], ',' if ending == '.csv' else '\t')
  if not rows:
    raise ValueError(f'{path} holds no examples. Write one JSON object per line or, for TSV and CSV, a line of column '
                     'names followed by one example per line.')
  return rows


def no_table(path: str) -> str:
  """Returns the message for a file that has another ending than those of tables, or for a folder.

  Raises:
    FileNotFoundError: it does not exist.
  """
  kinds = 'a .jsonl file with one JSON object a line, or a .tsv or .csv file whose first line names the columns'
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


def _require_texts(path: str, lines: Sequence[str]) -> None:
  """Raises ValueError if the lines of a text file are those of a table: JSON, or values separated by tabs."""
  tabs = {line.count('\t') for line in lines if line.strip()}
  first = next((line.strip() for line in lines if line.strip()), '')
  is_json = first in ('{', '[') or first.startswith(('{"', '[{'))
  if is_json or (len(tabs) == 1 and min(tabs) > 0):
    kind = 'JSON' if is_json else 'values separated by tabs'
    ending = '.jsonl, with one object per line' if is_json else '.tsv'
    raise ValueError(f'{path} holds {kind}, so a line of it is not a text to predict for. Give the file the ending '
                     f'{ending}, or remove what is not part of the texts.')


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


def share(text: str) -> float:
  """Returns a number in [0, 1) that depends only on the text."""
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32


def row_share(columns: Mapping[str, Any]) -> float:
  """Returns a number in [0, 1) that depends only on a row's columns, by name and text, in any order."""
  texts = {name: tables.spelled(value) or repr(value) for name, value in columns.items()}
  return share(json.dumps(texts, sort_keys=True))
