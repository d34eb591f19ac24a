"""Checks of a run's values, and their form as text on a command line."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

import msgspec

from prompt_tuning.runs.choice import Choice

# What msgspec writes -> what users read.
_PLAIN = (('`int`', 'a whole number'), ('`int | null`', 'a whole number or none'), ('`float`', 'a number'),
          ('`float | null`', 'a number or none'), ('`bool`', 'true or false'), ('`str`', 'a text'),
          ('`str | null`', 'a text or none'), ('`null`', 'none'), ('`array`', 'a list'),
          ('`array | null`', 'a list or none'), ('`object`', 'name=value pairs'),
          ('`object | null`', 'name=value pairs or none'), (' >= ', ' of at least '), (' <= ', ' of at most '),
          (' > ', ' above '), (' < ', ' below '))
_PAIRS = {'labels': '0=negative,1=positive', 'columns': 'prompt=question,completion=answer', 'mesh': 'data=2,model=4',
          'new_layers': 'classes=2,tokens=5', 'verbaliser': 'positive=great,negative=terrible'}
_NONE = ('none', 'None')


def checked(name: str, value: Any, hint: Any) -> Any:
  """Returns a value converted to its type, such as a list to a tuple.

  Raises:
    ValueError: it is of another type or out of range; the message names it as `name=value`.
  """
  options = _options(hint)
  if value is None and type(None) in options:
    return None
  try:
    if Choice in options:
      return Choice.of(value)
    if isinstance(value, str) and value in _NONE and type(None) in options and str not in options:
      return None  # TOML has no None
    return msgspec.convert(value, hint)
  except (msgspec.ValidationError, ValueError) as error:
    why = _expected(options) or _lowered(str(error))
    raise ValueError(f'{name}={value!r} cannot be used: {why}.') from error


def parsed(name: str, text: str, hint: Any) -> Any:
  """Returns the value that a text on a command line gives: lists are joined by commas, mappings are `a=b,c=d`.

  Raises:
    ValueError: it is not of that type.
  """
  options = _options(hint)
  if text in _NONE and type(None) in options:
    return None
  if Choice in options or any(text in typing.get_args(option) for option in options
                              if typing.get_origin(option) is typing.Literal):
    return text
  for option in options:
    origin = typing.get_origin(option) or option
    if option is type(None):
      continue
    if origin is tuple:
      return checked(name, [part for part in text.split(',') if part], hint) if (
        typing.get_args(option)[0] is str) else checked(name, _numbers(name, text.split(',')), hint)
    if origin in (dict, Mapping):
      pairs = [part.partition('=') for part in text.split(',')]
      wrong = next((key for key, equals, _ in pairs if not (key and equals)), None)
      if wrong is not None:
        raise ValueError(f'{name}={text} cannot be used: {wrong!r} is not a pair with an equals sign. Write pairs '
                         f'joined by commas, such as {_PAIRS.get(name, "a=1,b=2")}.')
      keys = [key for key, *_ in pairs]
      twice = next((key for key in keys if keys.count(key) > 1), None)
      if twice is not None:
        raise ValueError(f'{name}={text} names {twice} twice. Give it once.')
      values = [value for *_, value in pairs]
      whole = typing.get_args(option)[1] is int
      return checked(name, dict(zip(keys, _numbers(name, values) if whole else values, strict=True)), hint)
  failed: Exception | None = None
  for option in sorted(options, key=lambda each: each is str):  # a number if it reads as one
    try:
      return msgspec.convert(text, option, strict=False)
    except msgspec.ValidationError as error:
      failed = failed if option is type(None) and failed is not None else error
  raise ValueError(f'{name}={text} cannot be used: {_expected(options) or _lowered(str(failed))}.')


def guessed(text: str) -> Any:
  """Returns the number, truth value, list or text that an option's value on a command line reads as."""
  if text in _NONE:
    return None
  if ',' in text:
    return tuple(guessed(part) for part in text.split(',') if part)
  for kind in (int, float, bool):
    try:
      return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
      continue
  return text


def check_fields(run: Any) -> None:
  """Checks every field of a frozen dataclass, in place.

  Raises:
    ValueError: a value cannot be used.
  """
  hints = typing.get_type_hints(type(run), include_extras=True)
  for field in dataclasses.fields(run):
    object.__setattr__(run, field.name, checked(field.name, getattr(run, field.name), hints[field.name]))


def _numbers(name: str, texts: list[str]) -> list[int]:
  try:
    return [int(text) for text in texts]
  except ValueError as error:
    raise ValueError(f'{name}={",".join(texts)} cannot be used: expected whole numbers.') from error


def _options(hint: Any) -> tuple[Any, ...]:
  """Returns the types of a union, or the one type."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return typing.get_args(hint)
  return (hint,)


def _expected(options: tuple[Any, ...]) -> str:
  """Returns the words that a value can be, for a message; '' for types without a list of words."""
  words = [str(word) for option in options if typing.get_origin(option) is typing.Literal
           for word in typing.get_args(option)]
  if not words:
    return ''
  others = ' or a number' if any(typing.get_origin(option) is not typing.Literal for option in options
                                 if option is not type(None)) else ''
  return f'expected one of {", ".join(words)}{others}'


def _lowered(text: str) -> str:
  """Returns msgspec's reason in plain words."""
  for theirs, ours in _PLAIN:
    text = text.replace(theirs, ours)
  return text[:1].lower() + text[1:]
