"""JSON objects from elsewhere, and the schemas that check their fields."""

import json
import math

import pytest

from prompt_tuning.files.json_files import (
  Count,
  Fields,
  Positive,
  Size,
  fields_of,
  numbers_of,
  read_fields,
  read_object,
  spelled,
)


class Shape(Fields):
  width: Size
  heads: Size | None = None
  scale: Positive = 1.0
  window: Count | None = 7
  ids: int | list[int] | None = None


@pytest.mark.parametrize(('content', 'message'), [
  (b'{"a": ', r'a.json is not JSON: '),
  (b'[1]', r'a.json holds a list, expected a JSON object'),
  (b'{"a":' * 100_000, r'a.json is nested too deeply to be a shape'),
  (b'{"a": "\xff"}', r'a.json is not JSON: .*utf-8'),
  (b'{"a": ' + b'1' * 5000 + b'}', r'a.json is not JSON: ')])
def test_a_file_that_is_no_json_object_is_an_error_with_its_path(tmp_path, content, message):
  (tmp_path / 'a.json').write_bytes(content)
  with pytest.raises(ValueError, match=message):
    read_object(str(tmp_path / 'a.json'), 'a shape')


def test_a_file_that_does_not_exist_is_an_error_that_says_what_is_expected(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'a.json does not exist; expected a shape. Check the path'):
    read_object(str(tmp_path / 'a.json'), 'a shape')


@pytest.mark.parametrize('found', [{}, {'width': None}])
def test_a_field_that_is_absent_or_null_is_named(found):
  with pytest.raises(ValueError, match=r"a.json lacks 'width'. Get the file again"):
    fields_of('a.json', found, Shape)


@pytest.mark.parametrize(('name', 'value', 'reason'), [
  ('width', 0, 'expected int >= 1'), ('width', '96', 'expected int, got str'),
  ('width', True, 'expected int, got bool'),
  ('width', 1e308, 'expected int, got float'), ('width', 10**400, 'expected int <= 16777216'),
  ('width', [], 'expected int, got array'), ('scale', None, 'expected float, got null'),
  ('scale', float('nan'), 'expected float >= 1e-30'), ('scale', float('inf'), 'expected float <= 1e'),
  ('scale', 0, 'expected float >= 1e-30'), ('window', -1, 'expected int >= 0'),
  ('ids', [[1]], 'expected int, got array'), ('heads', {'a': 'x' * 100}, "expected int | null, got object")])
def test_a_value_that_cannot_be_used_is_named_with_path_and_field(tmp_path, name, value, reason):
  (tmp_path / 'a.json').write_text(json.dumps({'width': 4} | {name: value}))
  with pytest.raises(ValueError, match=rf'a.json sets {name} to ') as found:
    read_fields(str(tmp_path / 'a.json'), Shape)
  assert reason in str(found.value) and len(str(found.value)) < 250


def test_null_is_a_value_where_the_schema_allows_it_and_other_fields_are_ignored():
  found = fields_of('a.json', {'width': 4, 'window': None, 'scale': 2, 'else': [[]]}, Shape)
  assert (found.width, found.heads, found.window, found.scale) == (4, None, None, 2.0)


def test_a_message_carries_no_control_characters_of_a_file():
  with pytest.raises(ValueError, match=r'\\x1b\[31m') as found:
    fields_of('a.json', {'width': '\x1b[31mred'}, Shape)
  assert str(found.value).isprintable()


def test_numbers_that_are_not_finite_are_null_and_read_as_nan():
  values = {'loss': math.nan, 'more': [math.inf, {'a': -math.inf}], 'step': 3, 'name': 'NaN', 'rate': 0.5}
  text = spelled(values)
  assert text == '{"loss": null, "more": [null, {"a": null}], "step": 3, "name": "NaN", "rate": 0.5}'
  found = numbers_of(json.loads(text))
  assert list(found) == ['loss', 'step', 'rate'] and math.isnan(found['loss']) and found['rate'] == 0.5
