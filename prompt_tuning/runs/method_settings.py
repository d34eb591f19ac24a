"""The settings of tuning methods by name, read from their source, so that `--help` imports no JAX."""

import ast
import dataclasses
import functools
import importlib.util
import inspect
import pathlib
import re
import sys
import textwrap
from collections.abc import Mapping

_REGISTRY = 'prompt_tuning.tuning.registry'
_TYPES = ('int', 'float', 'bool', 'str')


@dataclasses.dataclass(frozen=True)
class MethodSetting:
  """One setting of a method.

  Attributes:
    name: its name, which is its flag too.
    type: its annotation, as source.
    default: its default, as source.
    help: what it means.
  """

  name: str
  type: str
  default: str
  help: str


def method_settings() -> Mapping[str, list[MethodSetting]]:
  """Returns the settings of every method that is known: those of the package, and those that were registered."""
  known = _of_package()
  registry = sys.modules.get(_REGISTRY)  # only loaded if a module may have registered a method
  registered = {} if registry is None else {
    name: _of_source(inspect.getsource(inspect.getmodule(method)), method.__name__)
    for name, method in registry.METHODS.items() if name not in known}
  return {**known, **registered}


@functools.cache
def _of_package() -> dict[str, list[MethodSetting]]:
  tree = ast.parse(_source(_REGISTRY))
  homes = {alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom)
           for alias in node.names}
  table = next(node.value.args[1] for node in tree.body
               if isinstance(node, ast.AnnAssign) and node.target.id == 'METHODS')
  return {key.value: _of_source(_source(homes[value.id]), value.id)
          for key, value in zip(table.keys, table.values, strict=True)}


def _source(module: str) -> str:
  return pathlib.Path(importlib.util.find_spec(module.rpartition('.')[0]).submodule_search_locations[0],
                      f'{module.rpartition(".")[2]}.py').read_text()


def _of_source(source: str, name: str) -> list[MethodSetting]:
  """Returns the plain fields of a class, or of the class that its attribute `Settings` names."""
  classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
  owner = classes[name]
  for node in owner.body:
    if isinstance(node, ast.Assign) and node.targets[0].id == 'Settings':
      owner = classes[node.value.id]
  help_of = described(ast.get_docstring(owner) or '')
  found = []
  for node in owner.body:
    if isinstance(node, ast.AnnAssign) and not node.target.id.startswith('_'):
      kind = ast.unparse(node.annotation)
      if 'ClassVar' in kind:
        continue
      if node.target.id == 'init' or (any(re.search(rf'\b{each}\b', kind) for each in _TYPES) and 'Array' not in kind):
        found.append(MethodSetting(node.target.id, kind, ast.unparse(node.value) if node.value else '',
                                   help_of.get(node.target.id, '')))
  return found


def described(docstring: str) -> dict[str, str]:
  """Returns what the lines below `Attributes:` of a docstring say about each name."""
  lines = textwrap.dedent(docstring.partition('Attributes:\n')[2].partition('\n\n')[0])
  return dict(re.findall(r'^(\w+): (.*?)\.?$', re.sub(r'\n +', ' ', lines), re.MULTILINE))
