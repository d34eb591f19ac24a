"""The current folder's place in `sys.path`: last, so that its files shadow no module of Python or a library."""

import os
import sys


def put_last() -> None:
  """Moves the current folder, in which users keep modules, after all others; what PYTHONPATH names stays."""
  given, here = os.environ.get('PYTHONPATH', '').split(os.pathsep), os.getcwd()
  sys.path[:] = [path for path in sys.path if path not in ('', here) or (path and path in given)]
  if here not in sys.path:
    sys.path.append(here)
