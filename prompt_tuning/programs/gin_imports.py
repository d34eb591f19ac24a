"""The modules that gin files may import: a gin file is code, because it calls functions of the modules that it names.

A file on this machine may import any module, as T5X's files do; each import is logged. A file from elsewhere, and what
it includes, may import only the packages in `PACKAGES` and the modules that the command line names, and may not reach
other modules through them.
"""

import inspect
import sys
from collections.abc import Collection, Iterable
from typing import Any

from absl import logging

PACKAGES = ('prompt_tuning', 'seqio', 't5x', 'flaxformer')
_OWN = ('prompt_tuning.t5x_names', '__gin__')  # what lines of T5X's files are rewritten to, and gin's own switches


class Imports:
  """What the gin files of one run may import.

  Args:
    named: modules that the command line names.
    everything: files from elsewhere may import any module.

  Attributes:
    foreign: the files from elsewhere.
  """

  def __init__(self, named: Collection[str] = (), *, everything: bool = False):
    self._named, self._everything = (*PACKAGES, *named), everything
    self.foreign: set[str] = set()

  def require(self, module: str, file: str, line: int = 0) -> None:
    """Raises ValueError if a file may not import a module."""
    if not self._everything and file in self.foreign and not _inside(module, (*self._named, '__gin__')):
      where = f'{file}:{line}' if line else file
      raise ValueError(
        f'{where}: imports {module}. A gin file is code, and one from elsewhere may import only '
        f'{", ".join(PACKAGES)} and modules that the command line names. Read the file; then name the module '
        '(--gin.MIXTURE_OR_TASK_MODULE), copy the file to this machine, or give --gin_allow_imports.')

  def require_values(self, values: Iterable[Any], file: str) -> None:
    """Raises ValueError if a file from elsewhere reaches a module that it may not import through one that it may."""
    for value in values if file in self.foreign else ():
      module = value.__name__ if inspect.ismodule(value) else getattr(value, '__module__', None)
      self.require(str(module), file)

  def require_all(self, modules: Iterable[str]) -> None:
    """Raises ValueError if a run that a file from elsewhere describes imports a module that it may not."""
    for module in modules if self.foreign else ():
      self.require(module, min(self.foreign))


def log(module: str, file: str, line: int) -> None:
  """Logs the import of a module by a file."""
  if not _inside(module, _OWN):
    logging.warning('%s:%d imports %s, whose code runs: %s', file, line, module,
                    getattr(sys.modules.get(module), '__file__', None) or 'built in')


def _inside(module: str, packages: Iterable[str]) -> bool:
  return any(f'{module}.'.startswith(f'{package}.') for package in packages)
