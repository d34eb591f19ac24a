"""Prints the folder of an installed module, without importing it.

  PROMPT_DIR=$(python3 -m prompt_tuning.scripts.find_module prompt_tuning)

If the module is not installed (older scripts ask for `t5x` and `flaxformer`, which this package does not need), it
writes a message to standard error, prints an empty line and exits with 0: in a script under `set -e` the variable is
then empty, and empty folders in --gin_search_paths are skipped.
"""

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence

from prompt_tuning.scripts import _script


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the script from the command line; returns the exit status."""
  parser = _script.parser('find_module', __doc__)
  parser.add_argument('module', help='a dotted name, such as prompt_tuning or prompt_tuning.configs')
  return _script.run(parser, argv, lambda options: _print_folder(options.module))


def find_folder(module: str) -> str | None:
  """Returns the folder of a package, or the folder with a module's file; None if there is none.

  Raises:
    ValueError: the name is not a valid module name.
  """
  parts = module.split('.')
  if not all(part.isidentifier() for part in parts):
    raise ValueError(f'{module!r} is not a module name. Write it as in an import, such as prompt_tuning.configs.')
  spec = importlib.util.find_spec(parts[0])
  for end in range(2, len(parts) + 1):  # `find_spec` of a dotted name would import its parents
    if spec is None or spec.submodule_search_locations is None:
      return None
    spec = importlib.machinery.PathFinder.find_spec('.'.join(parts[:end]), spec.submodule_search_locations)
  if spec is None:
    return None
  if spec.submodule_search_locations:
    return os.path.abspath(next(iter(spec.submodule_search_locations)))
  return os.path.dirname(os.path.abspath(spec.origin)) if spec.has_location else None


def _print_folder(module: str) -> None:
  folder = find_folder(module)
  if folder is None:
    print(f'find_module: found no folder of {module}. Install it if you need it; '
          'this package does not need t5x and flaxformer.', file=sys.stderr)
  print(folder or '')


if __name__ == '__main__':
  sys.exit(main())
