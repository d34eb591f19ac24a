"""The current folder on the path of modules: last, so that its files stand in for no module of Python or a library."""

import os
import sys


def put_last() -> None:
  """Moves the current folder, in which users keep modules, behind all others; what PYTHONPATH names stays."""
  given, here = os.environ.get('PYTHONPATH', '').split(os.pathsep), os.getcwd()
  sys.path[:] = [path for path in sys.path if path not in ('', here) or (path and path in given)]
  if here not in sys.path:
    sys.path.append(here)
