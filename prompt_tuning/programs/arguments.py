"""Parsers of arguments whose errors are ValueErrors in the words of this package, and whose flags are given once."""

import argparse
import re
from collections.abc import Collection, Iterable
from typing import Any, NoReturn

from prompt_tuning.names import nearest

_KINDS = {'int': 'a whole number', 'float': 'a number'}


def require_utf8(argv: Iterable[str]) -> None:
  """Raises ValueError if an argument is not UTF-8."""
  for arg in argv:
    if any('\ud800' <= each <= '\udfff' for each in arg):  # what Python makes of bytes that are not UTF-8
      raise ValueError(f'The argument {arg!r} is not UTF-8. Write it, and name files, in UTF-8.')


class Parser(argparse.ArgumentParser):
  """A parser that takes no abbreviations.

  Args:
    lists: the names of flags whose values are lists, joined by commas.
    **options: those of `argparse.ArgumentParser`.
  """

  def __init__(self, *, lists: Collection[str] = (), **options: Any):
    super().__init__(allow_abbrev=False, **options)
    self.register('action', None, _Once)
    self.lists, self.given = lists, {}

  def error(self, message: str) -> NoReturn:
    """Raises ValueError with the reason that argparse gives, in other words."""
    match = re.fullmatch(r'argument ([^:]+): (.*)', message, re.DOTALL)
    flag, reason = match.groups() if match else ('', message)
    flag = flag.split('/')[0]
    shown = next((action.metavar or action.dest.upper() for action in self._actions
                  if flag in (*action.option_strings, action.metavar)), 'VALUE')
    raise ValueError(_answer(flag, reason, shown, self) or f'{flag}{": " * bool(flag)}{reason}. `{self.prog} --help` '
                     'lists all flags.')


class _Once(argparse.Action):
  """Stores the value of a flag that must not be repeated."""

  def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
               option_string: str | None = None) -> None:
    if option_string is not None and isinstance(parser, Parser):
      if self.dest in parser.given:
        before = parser.given[self.dest]
        before, after = (' '.join(each) if isinstance(each, list) else each for each in (before, values))
        joined = ' ' if isinstance(values, list) else ',' if self.dest in parser.lists else ''
        advice = f', as {option_string} {before}{joined}{after}' if joined else ''
        raise ValueError(f'{option_string} is given twice: {before} and {after}. Give it once{advice}.')
      parser.given[self.dest] = values
    setattr(namespace, self.dest, values)


def _answer(flag: str, reason: str, shown: str, parser: argparse.ArgumentParser) -> str:
  """Returns what is wrong and what to write, for a reason of argparse that is known; otherwise nothing."""
  if re.match(r'expected (one|at least one|\d+) argument', reason):
    return f'{flag} has no value. Write {flag} {shown}; a value that begins with a dash needs {flag}={shown}.'
  match = re.match(r"invalid (\w+) value: (.*)", reason)
  if match:
    return f'{flag}={_bare(match[2])} cannot be used: expected {_KINDS.get(match[1], shown)}.'
  match = re.match(r"invalid choice: (.*) \(choose from (.*)\)", reason)
  if match:
    return f'{flag}={_bare(match[1])} cannot be used: expected one of {match[2].replace(chr(39), "")}.'
  match = re.match(r'ignored explicit argument (.*)', reason)
  if match:
    return f'{flag} takes no value, but got {match[1]}. Leave the value out.'
  match = re.match(r'the following arguments are required: (.*)', reason)
  if match:
    return f'{match[1]} {"are" if ", " in match[1] else "is"} missing. `{parser.prog} --help` describes all arguments.'
  match = re.match(r'unrecognized arguments: (\S+)', reason)
  if match:
    known = [option for action in parser._actions for option in action.option_strings]
    return f'There is no argument {match[1]}.{nearest(match[1], known)} `{parser.prog} --help` lists them.'
  return ''


def _bare(text: str) -> str:
  return text[1:-1] if text[:1] in '\'"' and text[-1:] == text[:1] else text
