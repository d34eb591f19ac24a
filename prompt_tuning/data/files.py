"""Tasks from JSONL and TSV files, without writing Python.

A JSONL file has one JSON object per line; its keys are the columns. The first line of a TSV file names the columns;
values are separated by tabs and are not quoted. A template such as "sst2 sentence: {text}" turns an example's columns
into a text.
"""

import gzip
import hashlib
import io
import json
import string
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from prompt_tuning.data import metrics as metric_functions
from prompt_tuning.data.tasks import FILE_ENDINGS, Example, Metric, Task
from prompt_tuning.files import storage
from prompt_tuning.names import nearest

Row = tuple[int, dict[str, Any]]  # line number, columns
_MARK = b'\xef\xbb\xbf'  # the byte order mark that some editors write
_LINE_BYTES = 64 * 2**20


class FileTask(Task):
  """A task whose examples are the lines of a file. Each keeps its columns in addition to 'inputs' and 'targets'.

  Splits: 'all' is all of `path`. If `validation` is a fraction, 'train' and 'validation' divide `path` by a hash of the
  inputs: equal inputs stay in one split, and adding or removing lines does not move others. If `validation` is a file,
  'train' is all of `path`.

  Args:
    path: a .jsonl or .tsv file, local or `gs://`.
    inputs: template of the input text.
    targets: template of the target text.
    labels: maps values of the columns in `targets` to texts, for example {'0': 'negative', '1': 'positive'}.
    validation: the fraction of examples for validation, or the path of another file.
    test: the path of a file for the split 'test'.
    metrics: functions, or names for `metrics.get`.
    name: the task's name; the path by default.
  """

  def __init__(self, path: str, *, inputs: str = '{inputs}', targets: str = '{targets}',
               labels: Mapping[str, str] | None = None, validation: float | str = 0.1, test: str | None = None,
               metrics: Sequence[Metric | str] = ('accuracy',), name: str | None = None):
    fill = _Filler(inputs, targets, labels)
    everything = [fill(path, row) for row in read_table(path)]
    splits = {'train': everything, 'all': everything}
    if isinstance(validation, str):
      splits['validation'] = [fill(validation, row) for row in read_table(validation)]
    else:
      if not 0 <= validation < 1:
        raise ValueError(f'validation={validation} is out of range for {path}. Give a fraction from 0 to below 1, or '
                         'the path of a file.')
      for split, wanted in (('train', False), ('validation', True)):
        splits[split] = [e for e in everything if (share(e['inputs']) < validation) == wanted]
    if test is not None:
      splits['test'] = [fill(test, row) for row in read_table(test)]
    functions = tuple(metric_functions.get(m) if isinstance(m, str) else m for m in metrics)
    super().__init__(name or str(path), splits, functions, source=str(path), labels=fill.labels)


def read_inputs(path: str, *, inputs: str = '{inputs}') -> list[Example]:
  """Returns the examples to predict: the rows of a JSONL or TSV file, or each line of any other file as a text.

  Args:
    path: the file, local or `gs://`.
    inputs: template of the input text; of a text file, whose lines fill its column, it must have one column.

  Raises:
    ValueError: a row cannot be read, or the template has several columns that lines of a text file cannot fill.
  """
  fill = _Filler(inputs, None, None)
  if str(path).endswith(FILE_ENDINGS):
    return [fill(path, row) for row in read_table(path)]
  columns = fill.columns('inputs')
  if len(columns) > 1:
    raise ValueError(f'{path} has one text a line, but the template {inputs!r} has the columns {", ".join(columns)}. '
                     'Give a .jsonl or .tsv file with these columns, or a template with one column.')
  return [{'inputs': fill(path, (number, dict.fromkeys(columns, text)))['inputs']} for number, text in read_lines(path)]


def read_table(path: str) -> list[Row]:
  """Returns the line number and the columns of every row of a JSONL or TSV file; blank lines are skipped.

  Raises:
    ValueError: a line cannot be read, or the file has no rows; the message names file and line.
  """
  if not str(path).endswith(FILE_ENDINGS):
    raise ValueError(f'{path} is neither a .jsonl nor a .tsv file. Rename it, or convert it to one of them.')
  lines = [(number, line) for number, line in read_lines(path) if line.strip()]
  if str(path).endswith('.tsv'):
    rows = _tsv_rows(path, lines)
  else:
    rows = [(number, _json_object(path, number, line)) for number, line in lines]
  if not rows:
    raise ValueError(f'{path} holds no examples. Write one JSON object per line or, for TSV, a line of column names '
                     'followed by one example per line.')
  return rows


class _Filler:
  """Builds 'inputs' and 'targets' from an example's columns."""

  def __init__(self, inputs: str, targets: str | None, labels: Mapping[str, str] | None):
    templates = {'inputs': inputs} | ({} if targets is None else {'targets': targets})
    self._templates = {key: _parse(key, template) for key, template in templates.items()}
    self._labels = labels

  @property
  def labels(self) -> tuple[str, ...]:
    """All possible target texts, from the label map; empty unless the template has exactly one column."""
    parts = self._templates['targets']
    if self._labels is None or sum(column is not None for _, column in parts) != 1:
      return ()
    texts = (''.join(words + ('' if column is None else label) for words, column in parts)
             for label in self._labels.values())
    return tuple(dict.fromkeys(texts))

  def columns(self, key: str) -> list[str]:
    """Returns the columns that a template names."""
    return list(dict.fromkeys(column for _, column in self._templates[key] if column is not None))

  def __call__(self, path: str, row: Row) -> Example:
    number, columns = row
    texts = {}
    for key, parts in self._templates.items():
      texts[key] = ''
      for words, column in parts:
        value = '' if column is None else _text(path, number, columns, column)
        if column is not None and key == 'targets' and self._labels is not None:
          value = self._label(path, number, column, value)
        texts[key] += words + value
    return columns | texts

  def _label(self, path: str, number: int, column: str, value: str) -> str:
    if value not in self._labels:
      raise ValueError(f'{path}:{number}: column {column!r} holds {value!r}, but the label map has only '
                       f'{", ".join(map(repr, self._labels))}. Fix the line, or add the value to the label map.')
    return self._labels[value]


def _parse(key: str, template: str) -> list[tuple[str, str | None]]:
  """Returns the template's pieces: literal text, and the column that follows it (None at the end)."""
  try:
    parts = list(string.Formatter().parse(template))
  except ValueError as error:
    raise ValueError(f'The template {template!r} for {key} cannot be read: {error}. Write columns as {{text}}, and '
                     'double any literal braces.') from error
  columns = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
  if not columns or not all(name and not spec and not conversion for name, spec, conversion in columns):
    raise ValueError(f'The template {template!r} for {key} names no column, or one with a colon or an exclamation '
                     'mark. Write column names in braces, for example "sentence: {text}".')
  return [(words, name) for words, name, _, _ in parts]


def _text(path: str, number: int, columns: Mapping[str, Any], column: str) -> str:
  if column not in columns:
    raise ValueError(f'{path}:{number}: there is no column {column!r}; found {", ".join(columns) or "none"}.'
                     f'{nearest(column, columns)} Use one of the file\'s columns in the template.')
  value = columns[column]
  if isinstance(value, str):
    return value
  if value is None or isinstance(value, dict | list):
    kind = 'null' if value is None else 'an object' if isinstance(value, dict) else 'a list'
    raise ValueError(f'{path}:{number}: column {column!r} is {kind}; expected a string, a number, true or false. '
                     'Fix or remove the line.')
  return json.dumps(value)  # label maps use JSON's spelling: true, not True


def _json_object(path: str, number: int, line: str) -> dict[str, Any]:
  try:
    found = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path}:{number}: not JSON ({error}); found {line.strip()[:60]!r}. '
                     'Write one JSON object per line.') from error
  try:
    if '\\ud' in line.lower():  # half of a pair of JSON's escapes is no character
      json.dumps(found, ensure_ascii=False).encode()
  except UnicodeEncodeError as error:
    raise ValueError(f'{path}:{number}: holds half of a character, {error.object[error.start]!r}. Write whole '
                     'characters.') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path}:{number}: found {line.strip()[:60]!r}, expected a JSON object such as '
                     '{"inputs": "…", "targets": "…"}.')
  return found


def _tsv_rows(path: str, lines: Sequence[tuple[int, str]]) -> list[Row]:
  if not lines:
    return []
  names = lines[0][1].split('\t')
  if len(set(names)) < len(names):
    raise ValueError(f'{path}:{lines[0][0]}: the first line names a column twice ({", ".join(names)}). '
                     'Give each column a unique name.')
  rows = []
  for number, line in lines[1:]:
    values = line.split('\t')
    if len(values) != len(names):
      raise ValueError(f'{path}:{number}: found {len(values)} columns, but the first line names {len(names)} '
                       f'({", ".join(names)}). Separate values with single tabs; a value cannot contain a tab.')
    rows.append((number, dict(zip(names, values, strict=True))))
  return rows


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
                     'Save the file as UTF-8.') from error
  except FileNotFoundError as error:
    raise FileNotFoundError(f'{path}: there is no such file. Give the path of a file of examples.') from error
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise ValueError(f'{path} is not a complete gzip file ({error}). Copy it again, or unpack it.') from error


def _opened(path: str) -> IO[bytes]:
  source = io.BytesIO(storage.read_bytes(path)) if storage.is_remote(path) else path
  if str(path).endswith('.gz'):
    return gzip.open(source)
  return open(path, 'rb') if source is path else source


def share(text: str) -> float:
  """Returns a number in [0, 1) that depends only on the text."""
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32
