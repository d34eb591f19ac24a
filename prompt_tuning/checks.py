"""The types of arguments, compared with their annotations where a user calls."""

import collections.abc
import dataclasses
import functools
import inspect
import numbers
import os
import re
import typing
from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, TypeVar

from prompt_tuning.names import require_known

_Function = TypeVar('_Function', bound=Callable[..., Any])
_WORDS = {int: 'a whole number', float: 'a number', bool: 'True or False', str: 'a text', type(None): 'None'}
# Class -> how users make one.
_MADE = {'LanguageModel': 'prompt_tuning.load_model(path) reads one.',
         'Method': 'Make one, such as prompt_tuning.PromptTuning(prompt_tuning.Prompt(20)).'}
_PLAIN = (str, bytes, bool, numbers.Number, list, tuple, dict, set, type(None))


def typed(function: _Function) -> _Function:
  """Returns a function that compares its arguments with their annotations before it runs.

  It raises ValueError for an argument of another type, and for one that it does not have.
  """
  signature = inspect.signature(function)
  named = [name for name, each in signature.parameters.items() if each.kind is not each.VAR_KEYWORD]
  title = function.__qualname__.removesuffix('.__init__')
  open_ended = len(named) < len(signature.parameters)

  @functools.wraps(function)
  def call(*given: Any, **options: Any) -> Any:
    if not open_ended:
      require_known(options, [name for name in named if name != 'self'], f'{title}()', 'argument')
    for name, value in signature.bind(*given, **options).arguments.items():
      require_type(name, value, signature.parameters[name].annotation if name in named else Any)
    return function(*given, **options)

  return typing.cast(_Function, call)


def check_fields(thing: Any) -> None:
  """Compares the fields of a dataclass with their annotations; raises ValueError if one has another type."""
  for field in dataclasses.fields(thing):
    require_type(field.name, getattr(thing, field.name), field.type)


def require_type(name: str, value: Any, hint: Any) -> None:
  """Raises ValueError if a value has another type than its annotation says."""
  if not fits(value, hint):
    wanted = spelled(hint)
    advice = next((f' {how}' for kind, how in _MADE.items() if re.search(rf'\b{kind}\b', wanted)), '')
    raise ValueError(f'{name}={value!r:.80} cannot be used: expected {wanted}.{advice}')


def fits(value: Any, hint: Any) -> bool:
  """Whether a value has a type. Any object that is not a plain value may stand for one of another class."""
  origin, parts = typing.get_origin(hint), typing.get_args(hint)
  if hint in (Any, inspect.Parameter.empty) or isinstance(hint, str | TypeVar) or hasattr(value, '__array__'):
    return True
  if origin in (typing.Union, UnionType):
    return any(fits(value, option) for option in parts)
  if origin is Literal:
    return value in parts
  if hint is Callable or origin is collections.abc.Callable:
    return callable(value)
  if hint is None or hint is type(None):
    return value is None
  if hint in (bool, str, bytes):
    return isinstance(value, hint) or (hint is str and isinstance(value, os.PathLike))
  if hint in (int, float):
    return isinstance(value, numbers.Integral if hint is int else numbers.Real) and not isinstance(value, bool)
  container = origin or hint
  if not isinstance(container, type):
    return True
  if issubclass(container, collections.abc.Mapping):
    return isinstance(value, collections.abc.Mapping) and (len(parts) < 2 or all(
      fits(key, parts[0]) and fits(each, parts[1]) for key, each in value.items()))
  if container in (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection):
    return not isinstance(value, str | bytes) and isinstance(value, collections.abc.Iterable)
  if not isinstance(value, _PLAIN):
    return True
  return not getattr(container, '_is_protocol', False) and isinstance(value, container)


def spelled(hint: Any) -> str:
  """Returns an annotation as users read it: `int or None`."""
  if hint in _WORDS:
    return _WORDS[hint]
  if typing.get_origin(hint) in (typing.Union, UnionType):
    return ' or '.join(map(spelled, typing.get_args(hint)))
  text = hint.__name__ if isinstance(hint, type) else str(hint)
  return re.sub(r'\w+\.', '', text).replace(' | ', ' or ').replace('NoneType', 'None')
