"""Renders chat templates as transformers does, in jinja2's immutable sandbox, and ends those that do not end.

A template is a program from elsewhere. It gets plain data, its loops and macros look at the clock, and the size of its
output and of its values is bounded.
"""

import datetime
import functools
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2
from jinja2 import ext, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

SECONDS = 10.0  # for one conversation; published templates need a ten-thousandth
CHARACTERS = 2**24  # of the text, or of one value
# Marks in the output around what {% generation %} encloses; they are removed.
_OPEN, _CLOSE = (f'\ue000{secrets.token_hex(8)}{end}' for end in '()')
_clock = threading.local()


class _UnboundedError(Exception):
  """A template does not end, or makes too much."""


class Rendered(NamedTuple):
  """A rendered conversation: the text, and the spans in it that `{% generation %}` encloses."""

  text: str
  spans: list[tuple[int, int]]


def render(source: str, variables: Mapping[str, Any]) -> Rendered:
  """Returns the text of a template.

  Args:
    source: the template.
    variables: the values that it reads.

  Raises:
    ValueError: it is no template, it raises an error, or it does not end.
  """
  _clock.end = time.monotonic() + SECONDS
  pieces, count = [], 0
  try:
    for piece in _compiled(source).generate(variables):
      pieces.append(piece)
      count += len(piece)
      _require_size(count)
  except jinja2.TemplateSyntaxError as error:
    raise ValueError(f'it is no template of jinja2 (line {error.lineno}: {error})') from error
  except _UnboundedError as error:
    raise ValueError(str(error)) from error
  except jinja2.TemplateError as error:  # also what the template raises itself
    raise ValueError(f'it refuses the conversation: {str(error).rstrip(".")}') from error
  except Exception as error:  # a template may do anything
    raise ValueError(f'{type(error).__name__}: {str(error).rstrip(".")}') from error
  parts, spans, at, begun = [], [], 0, 0
  for part in re.split(f'({re.escape(_OPEN)}|{re.escape(_CLOSE)})', ''.join(pieces)):
    if part == _OPEN:
      begun = at
    elif part == _CLOSE:
      spans.append((begun, at))
    else:
      parts.append(part)
      at += len(part)
  return Rendered(''.join(parts), spans)


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
  """Returns a template whose loops and macros look at the clock."""
  environment = _environment()
  tree = _Joins().visit(environment.parse(source))
  for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
    node.body.insert(0, nodes.ExprStmt(_call('look', [])).set_lineno(node.lineno).set_environment(environment))
  return jinja2.Template.from_code(environment, environment.compile(tree), environment.make_globals(None))


@functools.cache
def _environment() -> jinja2.Environment:
  made = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, _Bounds, ext.loopcontrols])
  made.filters['tojson'] = _to_json
  made.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now, namespace=_Namespace)
  return made


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Call:
  return nodes.Call(nodes.ExtensionAttribute(_Bounds.identifier, name), arguments, [], None, None)


class _Joins(NodeTransformer):
  """Replaces the operator `~`, which no environment can intercept."""

  def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
    """Returns a call of `_Bounds.join`."""
    made = _call('join', [self.visit(each) for each in node.nodes])
    return made.set_lineno(node.lineno).set_environment(node.environment)


class _Sandbox(ImmutableSandboxedEnvironment):
  """The sandbox, with bounded sums, products and powers."""

  intercepted_binops = frozenset(('+', '*', '**'))

  def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
    """Returns the result of an operator, unless it is too large."""
    if operator == '+' and isinstance(left, str | list | tuple) and isinstance(right, type(left)):
      _require_size(len(left) + len(right))
    for sized, times in ((left, right), (right, left)):
      if operator == '*' and isinstance(sized, str | list | tuple) and isinstance(times, int):
        _require_size(len(sized) * times)
    if operator == '**' and isinstance(left, int) and isinstance(right, int):
      _require_size(left.bit_length() * right)
    return super().call_binop(context, operator, left, right)


class _Generation(ext.Extension):
  """The block `{% generation %}`, which encloses what the assistant writes."""

  tags = frozenset(('generation',))

  def parse(self, parser: Any) -> nodes.Node:
    """Returns the block as a call whose output is marked."""
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return nodes.CallBlock(self.call_method('mark'), [], [], body).set_lineno(line)

  def mark(self, caller: Any) -> str:
    """Returns the marked output of a block."""
    return f'{_OPEN}{caller()}{_CLOSE}'


class _Bounds(ext.Extension):
  """What loops, macros and `~` call."""

  def look(self) -> None:
    """Raises TimeoutError if the template takes too long."""
    if time.monotonic() > _clock.end:
      raise _UnboundedError(f'its loops do not end within {SECONDS:g} seconds')

  def join(self, *values: Any) -> str:
    """Returns the joined texts of values, unless they are too large."""
    texts = [str(value) for value in values]
    _require_size(sum(map(len, texts)))
    return ''.join(texts)


class _Namespace(jinja2.utils.Namespace):
  """A namespace without private names, which lead out of the sandbox."""

  def __init__(*given: Any, **values: Any) -> None:
    jinja2.utils.Namespace.__init__(*given, **values)
    for name in dict(*given[1:], **values):
      _require_public(name)

  def __setitem__(self, name: str, value: Any) -> None:
    _require_public(name)
    super().__setitem__(name, value)


def _require_public(name: Any) -> None:
  if str(name).startswith('_'):
    raise jinja2.exceptions.SecurityError(f'it stores the private name {name!r} in a namespace')


def _require_size(count: int) -> None:
  if count > CHARACTERS:
    raise _UnboundedError(f'it makes more than {CHARACTERS:,} characters')


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
             sort_keys: bool = False) -> str:
  return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
  raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
  fixed = os.environ.get('SOURCE_DATE_EPOCH')  # as in reproducible builds, for texts that do not change with the day
  now = datetime.datetime.now() if fixed is None else datetime.datetime.fromtimestamp(int(fixed), datetime.UTC)
  return now.strftime(form)
