"""Tables in memory are taken by their columns."""

import numpy as np
import pytest

from prompt_tuning.data import tables

ROWS = [{'text': 'good', 'label': 1}, {'text': 'bad', 'label': 0}]


class Frame:
  """Looks as a DataFrame of pandas does: iterating over it yields its columns."""

  def __init__(self, rows):
    self.rows, self.columns = rows, [*rows[0]]

  def __iter__(self):
    return iter(self.columns)

  def to_dict(self, orient):
    assert orient == 'records'
    return self.rows


class Dataset:
  """Looks as a dataset of Hugging Face does."""

  column_names = ('text', 'label')

  def __iter__(self):
    return iter(ROWS)


class Polars:
  columns = ('text', 'label')

  def to_dicts(self):
    return ROWS


@pytest.mark.parametrize('table', [
  ROWS, tuple(ROWS), iter(ROWS), Frame(ROWS), Dataset(), Polars(), {'text': ['good', 'bad'], 'label': [1, 0]}])
def test_the_rows_of_a_table_are_dicts_of_its_columns(table):
  assert tables.records(table) == ROWS


def test_frames_of_arrow_and_pandas_are_taken_by_their_columns():
  arrow = pytest.importorskip('pyarrow')
  assert tables.records(arrow.table({'text': ['good', 'bad'], 'label': [1, 0]})) == ROWS
  pandas = pytest.importorskip('pandas')
  assert tables.records(pandas.DataFrame(ROWS)) == ROWS


def test_pairs_are_inputs_and_targets():
  wanted = [{'inputs': 'a', 'targets': 'b'}]
  for pairs in ([('a', 'b')], [['a', 'b']], np.array([['a', 'b']])):
    assert tables.records(pairs) == wanted


@pytest.mark.parametrize(('table', 'message'), [
  (['ab', 'cd'], r"Example 0 is a text: 'ab'; expected a pair of inputs and targets, or a dict"),
  ([('a', 'b'), 'cd'], r'Example 1 is a text'),
  ([('a', 'b', 'c')], r'Example 0 is of type tuple'),
  ([('a',)], r'Example 0 is of type tuple'),
  ([[3, 4]], r'Example 0 is of type list'),
  ([None], r'Example 0 is of type NoneType'),
  ([3], r'Example 0 is of type int'),
  ([b'ab'], r'Example 0 is of type bytes'),
  ('ab', r"'ab' is not a table"),
  (None, r'None is not a table'),
  (3, r'3 is not a table'),
  ({'inputs': 'a', 'targets': 'b'}, r"The examples are a single dict, whose 'inputs' is 'a'"),
  ({'inputs': ['a'], 'targets': ['b', 'c']}, r"different lengths: \{'inputs': 1, 'targets': 2\}"),
  ([], r'The list of examples is empty'),
  (Frame([{'a': 1}]), None),
])
def test_what_is_no_table_is_an_error_that_names_it(table, message):
  if message is None:
    table.columns = ['a', 'a']
    message = r'two columns of the same name \(a, a\)'
  with pytest.raises(ValueError, match=message):
    tables.records(table)


@pytest.mark.parametrize(('value', 'text'), [
  ('a', 'a'), (np.str_('a'), 'a'), (1, '1'), (1.5, '1.5'), (True, 'true'), (np.int64(3), '3'),
  (np.bool_(False), 'false'), (10**400, '1' + '0' * 400), (float('nan'), None),
  (np.float32('inf'), None), (None, None), ([1], None), (b'a', None),
  (1 + 2j, None)])
def test_cells_are_spelled_as_in_json(value, text):
  assert tables.spelled(value) == text
