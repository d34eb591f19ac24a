"""Checks the types of values that gin files give, so that a wrong one is named wherever it would fail."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prompt_tuning.checks import fits, spelled


def first_mismatch(make: Callable[..., Any], values: Iterable[tuple[str, Any]]) -> tuple[str, Any, str] | None:
  """Returns the first parameter whose value has another type than its annotation: name, value, expected type.

  Args:
    make: what gin calls.
    values: parameters and plain values.
  """
  parameters = inspect.signature(make).parameters
  for name, value in values:
    hint = parameters[name].annotation if name in parameters else Any
    if not fits(value, hint):
      return name, value, re.sub(r'\bChoice\b', 'a reference such as @adafactor.Adafactor()', spelled(hint))
  return None


def resolved(values: Mapping[str, Any], macros: Mapping[str, Any], is_reference: Callable[[Any], bool],
             macro_of: Callable[[Any], str | None]) -> Iterable[tuple[str, str | None, Any]]:
  """Yields parameter, macro and value of those that are plain values, given directly or by macros.

  Args:
    values: parameters and what gin files bind to them.
    macros: the values of macros.
    is_reference: whether something refers to a configurable, whose value is not known before it is called.
    macro_of: the name of the macro that a reference refers to, or None.
  """
  for name, value in values.items():
    macro = None
    while is_reference(value) and macro_of(value) in macros:
      macro = macro_of(value)
      value = macros[macro]
    if not _holds(value, is_reference):
      yield name, macro, value


def _holds(value: Any, is_reference: Callable[[Any], bool]) -> bool:
  """Whether a value is, or holds, a reference."""
  if isinstance(value, Mapping):
    return any(_holds(each, is_reference) for pair in value.items() for each in pair)
  if isinstance(value, list | tuple):
    return any(_holds(each, is_reference) for each in value)
  return is_reference(value)
