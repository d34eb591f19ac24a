"""Rows of tables in memory: DataFrames, datasets, columns, and lists of dicts or of pairs."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def records(table: Any) -> list[dict[str, Any]]:
  """Returns the rows of a table as dicts of its columns.

  Args:
    table: a DataFrame, a dataset that has columns, a mapping of columns to lists, or an iterable of rows; a row is a
      dict, or a pair of inputs and targets.

  Raises:
    ValueError: there are no rows, or one is something else; the message names it.
  """
  if hasattr(table, 'collect') and not hasattr(table, 'to_dicts'):  # a lazy frame of Polars
    table = table.collect()
  for method in ('to_dicts', 'to_pylist'):  # of Polars and Arrow
    if hasattr(table, method):
      table = getattr(table, method)()
  if hasattr(table, 'columns') and hasattr(table, 'to_dict'):  # of pandas
    names = list(map(str, table.columns))
    if len(set(names)) < len(names):
      raise ValueError(f'The table has two columns of the same name ({", ".join(names)}). Give each a unique name.')
    table = table.to_dict('records')
  elif isinstance(table, Mapping):
    if table and all(hasattr(each, 'column_names') for each in table.values()):  # of datasets
      raise ValueError(f'The examples are the splits {", ".join(table)} of a data set; expected one table. Give one of '
                       f'them, such as data[{next(iter(table))!r}].')
    table = _transposed(table)
  if isinstance(table, str | bytes) or not hasattr(table, '__iter__'):
    raise ValueError(f'{table!r:.60} is not a table of examples. Give a list of pairs (inputs, targets), a list of '
                     'dicts, a DataFrame, a dataset, or the path of a file.')
  rows = [_record(i, row) for i, row in enumerate(table)]
  if not rows:
    once = ' A generator can be read once.' if hasattr(table, '__next__') else ''
    raise ValueError(f'The list of examples is empty.{once} Give at least one example.')
  return rows


def spelled(value: Any) -> str | None:
  """Returns the text of a cell: a text itself, a number or truth value as in JSON; None for everything else."""
  if isinstance(value, str):
    return str(value)
  value = value.item() if isinstance(value, np.generic) else value
  if isinstance(value, bool):
    return 'true' if value else 'false'
  if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
    return repr(value)
  return None


def _transposed(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
  alone = next((name for name, values in columns.items() if isinstance(values, str) or not hasattr(values, '__len__')),
               None)
  if alone is not None:
    raise ValueError(f'The examples are a single dict, whose {alone!r} is {columns[alone]!r:.60}; expected a list of '
                     'rows, or a list for each column. Write [example].')
  lengths = {name: len(values) for name, values in columns.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f'The columns have different lengths: {lengths}. Give one value for each row.')
  return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _record(i: int, row: Any) -> dict[str, Any]:
  if isinstance(row, Mapping):
    return {str(name): value for name, value in row.items()}
  is_sequence = isinstance(row, Sequence) or (isinstance(row, np.ndarray) and row.ndim > 0)
  if is_sequence and not isinstance(row, str | bytes) and len(row) == 2 and not isinstance(row[0], numbers.Number):
    return dict(zip(('inputs', 'targets'), row, strict=True))
  kind = 'a text' if isinstance(row, str) else f'of type {type(row).__name__}'
  raise ValueError(f'Example {i} is {kind}: {row!r:.60}; expected a pair of inputs and targets, or a dict with both. '
                   'Write (inputs, targets).')
