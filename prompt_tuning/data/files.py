"""Tasks from the rows of JSONL, TSV, CSV and Parquet files and of tables in memory, without writing Python.

`table_files` describes the files. A template such as "sst2 sentence: {text}" turns a row's columns into a text.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.checks import typed
from prompt_tuning.data import metrics as metric_functions
from prompt_tuning.data import tables
from prompt_tuning.data.row_forms import INPUTS, TARGETS, RowReader
from prompt_tuning.data.table_files import read_lines, read_table
from prompt_tuning.data.tasks import Example, Task, is_table
from prompt_tuning.data.templates import IN_MEMORY, Row, Templates


class FileTask(Task):
  """A task whose examples are the rows of a file or of a table. Each keeps its columns as 'row'.

  Splits: 'all' is all of `path`. If `validation` is a fraction, 'train' and 'validation' divide `path` by a hash of
  each row's columns: it does not depend on templates, equal rows stay in one split, and adding or removing rows does
  not move others. If `validation` is a file, 'train' is all of `path`.

  Args:
    path: a .jsonl, .tsv, .csv or .parquet file, local or `gs://`; a table of the hub (`hub_tables`); or a table in
      memory, such as a DataFrame (`tables.records`).
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
    columns: what has a meaning here -> the column of the table that has it, for inputs, targets, messages, prompt and
      completion: {'messages': 'conversations'}.

  Raises:
    ValueError: a row or a setting cannot be used; the message names it.
  """

  @typed
  def __init__(self, path: Any, *, inputs: str = INPUTS, targets: str = TARGETS,
               labels: Any = None, validation: Any = 0.1, test: Any = None,
               metrics: Any = ('accuracy',), name: str | None = None,
               loss_weight: str | None = None, cut: str = 'right', train_on: str | None = 'all',
               vocabulary: Any = None, columns: Mapping[str, str] | None = None):
    functions = metric_functions.functions(metrics)
    make = RowReader(inputs, targets, labels, loss_weight, cut, train_on, vocabulary, columns)
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
    paths = [each for each in (path, validation, test) if isinstance(each, str | os.PathLike)]
    object.__setattr__(self, 'paths', tuple(map(str, paths)))

  def place_of(self, example: Example) -> str | None:
    """Returns `path:line` of the row that an example was made from, for messages; None if no file has it."""
    rows = (found for path in self.paths for found in read_table(path))
    return next((where for where, columns in rows if columns == example.get('row')), None)


def read_inputs(path: str, *, inputs: str = INPUTS, cut: str = 'right', vocabulary: Any = None,
                columns: Mapping[str, str] | None = None) -> list[Example]:
  """Returns the examples to predict: the rows of a JSONL, TSV or CSV file, or each line of a text file.

  Args:
    path: the file, local or `gs://`, or a table of the hub.
    inputs: template of the input text; of a text file, whose lines fill its column, it must have one column.
    cut: see `FileTask`.
    vocabulary: likewise. Of a conversation that ends with the assistant's turn, that turn is predicted.
    columns: see `FileTask`.

  Raises:
    ValueError: a row cannot be read, the template has several columns that lines of a text file cannot fill, or the
      text file holds a table.
  """
  if is_table(path):
    return RowReader(inputs, None, cut=cut, vocabulary=vocabulary, columns=columns)(read_table(path))
  fill = Templates(inputs, cut=cut)
  named = fill.columns('inputs')
  if len(named) > 1:
    raise ValueError(f'{path} has one text a line, but the template {inputs!r} has the columns {", ".join(named)}. '
                     'Give a .jsonl, .tsv or .csv file with these columns, or a template with one column.')
  lines = list(read_lines(path))
  _require_texts(path, [line for _, line in lines])
  return [{'inputs': fill((f'{path}:{number}', dict.fromkeys(named, text)))['inputs']} for number, text in lines]


def read_rows(source: Any) -> list[Row]:
  """Returns the rows of a file or of a table in memory, each after its position for messages."""
  if isinstance(source, str | os.PathLike):
    return read_table(str(source))
  return [(f'{IN_MEMORY}{i}]', row) for i, row in enumerate(tables.records(source))]


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


def share(text: str) -> float:
  """Returns a number in [0, 1) that depends only on the text."""
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**32


def row_share(columns: Mapping[str, Any]) -> float:
  """Returns a number in [0, 1) that depends only on a row's columns, by name and text, in any order."""
  texts = {name: tables.spelled(value) or repr(value) for name, value in columns.items()}
  return share(json.dumps(texts, sort_keys=True))
