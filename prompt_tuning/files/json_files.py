"""Reads JSON objects that come from elsewhere, `config.json` and its like, by a schema; spells what programs read.

A schema is a `Fields` class. A field without default is required; null is a value only where the type allows None:

  class Shape(Fields):
    hidden_size: Size
    head_dim: Size | None = None
"""

import json
import math
import os
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from prompt_tuning.files import storage

_BYTES = 256 * 2**20  # more than any file of a published model
_SHOWN = 60  # characters of a value in a message

Size = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
Layers = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Positive = Annotated[float, msgspec.Meta(ge=1e-30, le=1e30)]


class Fields(msgspec.Struct, frozen=True):
  """A base class of schemas."""


Schema = TypeVar('Schema', bound=Fields)


def read_object(path: str, wanted: str = 'a JSON file') -> dict[str, Any]:
  """Returns the object of a JSON file; `wanted` describes it, or its folder, in messages.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file does not hold a JSON object, or is too large or too deeply nested to be one of a model.
  """
  if not storage.exists(path):
    raise FileNotFoundError(f'{path} does not exist; expected {wanted}. Check the path.')
  if not storage.is_remote(path) and os.path.getsize(path) > _BYTES:
    raise ValueError(f'{path} holds {os.path.getsize(path):,} bytes; expected at most {_BYTES:,}. Download it again.')
  return parse_object(path, storage.read_bytes(path), wanted)


def parse_object(path: str, content: bytes | str, wanted: str = 'a JSON file') -> dict[str, Any]:
  """Returns the object of JSON that was read from `path`; raises ValueError as `read_object` does."""
  try:
    value = json.loads(content)
  except RecursionError as error:
    raise ValueError(f'{path} is nested too deeply to be {wanted}. Download it again.') from error
  except ValueError as error:
    raise ValueError(f'{path} is not JSON: {error}. Download it again.') from error
  if not isinstance(value, dict):
    raise ValueError(f'{path} holds a {type(value).__name__}, expected a JSON object. Download it again.')
  return value


def read_fields(path: str, schema: type[Schema], wanted: str = 'a JSON file') -> Schema:
  """Returns the fields of a JSON file.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: it is not a JSON object, or lacks a field, or a field has a value of another type or out of range.
  """
  return fields_of(path, read_object(path, wanted), schema)


def fields_of(path: str, found: Mapping[str, Any], schema: type[Schema]) -> Schema:
  """Returns the fields of the object that was read from `path`.

  Raises:
    ValueError: it lacks a field, or a field has a value of another type or out of range.
  """
  try:
    return checked(found, schema)
  except KeyError as error:
    raise ValueError(f'{path} lacks {error}. Get the file again.') from error
  except ValueError as error:
    raise ValueError(f'{path} {error}') from error


def checked(found: Mapping[str, Any], schema: type[Schema]) -> Schema:
  """Returns the fields that a schema names; others are ignored.

  Raises:
    KeyError: a field without default is absent or null.
    ValueError: a value is of another type or out of range. The message follows a file's name: 'sets d_ff to 0: …'.
  """
  values = {}
  for field in msgspec.structs.fields(schema):
    value = found.get(field.encode_name)
    if value is None and field.required:
      raise KeyError(field.encode_name)
    if field.encode_name not in found:
      continue
    try:
      values[field.name] = msgspec.convert(value, field.type)
      _require_finite(values[field.name])
    except (msgspec.ValidationError, ValueError) as error:
      raise ValueError(f'sets {field.encode_name} to {shown(value)}: {_reason(error)}. '
                       'Fix it, or get the file again.') from error
  return schema(**values)


def spelled(value: Any, **options: Any) -> str:
  """Returns a value as JSON, with null for NaN and infinities, which JSON does not have; options are `json.dumps`'s."""
  try:
    return json.dumps(value, allow_nan=False, **options)
  except ValueError:
    return json.dumps(json.loads(json.dumps(value, **options), parse_constant=lambda _: None), **options)


def numbers_of(found: Mapping[str, Any]) -> dict[str, float]:
  """Returns the numbers among the fields; null, which `spelled` writes for those that are not finite, is NaN."""
  return {name: math.nan if value is None else value for name, value in found.items()
          if value is None or type(value) in (int, float)}


def part_of(config: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
  """Returns the object within a `config.json` that these fields lead to; those that are no objects are passed over."""
  for name in names:
    config = config[name] if isinstance(config.get(name), dict) else config
  return config


def shown(value: Any) -> str:
  """Returns a value for a message, at most `_SHOWN` characters of it."""
  text = repr(value)
  return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}…'


def _require_finite(value: Any) -> None:
  if isinstance(value, float) and not math.isfinite(value):
    raise ValueError('expected a finite number')


def _reason(error: Exception) -> str:
  text = str(error).replace('`', '')
  return text[:1].lower() + text[1:]
