"""Compares the parameters of two checkpoints, array by array: names, shapes, types, values.

  python3 -m prompt_tuning.scripts.diff_checkpoints LEFT RIGHT
  python3 -m prompt_tuning.scripts.diff_checkpoints --left=LEFT --right=RIGHT --atol=1e-6

Each is a T5X checkpoint of either layout, local or gs://, or a folder of such checkpoints (the newest is used); or both
are Hugging Face folders, whose names differ from T5X's. Steps and optimizer states are not compared. The exit status is
0 if the parameters are equal, 1 if they differ, 2 if they cannot be compared.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from prompt_tuning.scripts import _script


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the script from the command line; returns the exit status."""
  parser = _script.parser('diff_checkpoints', __doc__)
  add = parser.add_argument
  add('paths', nargs='*', metavar='PATH', help='the two checkpoints, unless --left and --right are given')
  add('--left', metavar='PATH', help='the first checkpoint')
  add('--right', metavar='PATH', help='the second checkpoint')
  add('--atol', type=float, default=0.0, help='absolute tolerance; default: %(default)s')
  add('--rtol', type=float, default=0.0, help='tolerance relative to the value on the right; default: %(default)s')
  add('--ignore_dtype', action='store_true', help='treat arrays of different types with equal values as equal')
  return _script.run(parser, argv, _compare)


def differences(left: Any, right: Any, *, atol: float = 0.0, rtol: float = 0.0,
                ignore_dtype: bool = False) -> Iterator[str]:
  """Yields a line for each array that differs, in the order of names.

  Args:
    left: a checkpoint reader.
    right: another checkpoint reader.
    atol: absolute tolerance.
    rtol: tolerance relative to the value on the right.
    ignore_dtype: whether types may differ.

  Raises:
    ValueError: an array is damaged.
  """
  names = left.names(), right.names()
  for name in sorted(names[0].keys() | names[1].keys()):
    shapes = [f'{known[name][0]} {known[name][1]}' for known in names if name in known]
    if len(shapes) == 1:
      yield f'{name}: only in {"left" if name in names[0] else "right"}, {shapes[0]}'
      continue
    found = []
    if names[0][name][0] != names[1][name][0]:
      found = ['shapes differ']
    else:
      if names[0][name][1] != names[1][name][1] and not ignore_dtype:
        found = ['types differ']
      found += _value_difference(left.read(name), right.read(name), atol, rtol)
    if found:
      yield f'{name}: {", ".join(found)}; {shapes[0]} on the left, {shapes[1]} on the right'


def _value_difference(left: Any, right: Any, atol: float, rtol: float) -> list[str]:
  import numpy as np

  left, right = (array.astype(np.float64) for array in (left, right))
  wrong = ~np.isclose(left, right, rtol=rtol, atol=atol, equal_nan=True)
  if not wrong.any():
    return []
  with np.errstate(invalid='ignore'):  # infinities and NaN
    largest = np.max(np.abs(left - right)[wrong])
  return [f'{wrong.sum()} of {wrong.size} values differ, by up to {largest:g}']


def _compare(options: Any) -> int:
  rest = list(options.paths)
  paths = [given or (rest.pop(0) if rest else None) for given in (options.left, options.right)]
  if rest or None in paths:
    raise ValueError(f'Found {len(options.paths)} paths in addition to --left and --right, expected two checkpoints in '
                     'total. Use: diff_checkpoints LEFT RIGHT')

  from prompt_tuning.models import loading

  left, right = (loading.open_checkpoint(loading.find_model(path)) for path in paths)
  print(f'left:  {left.path}\nright: {right.path}')
  count = 0
  for line in differences(left, right, atol=options.atol, rtol=options.rtol, ignore_dtype=options.ignore_dtype):
    print(line, flush=True)
    count += 1
  total = len(left.names().keys() | right.names().keys())
  print(f'different: {count} of {total} arrays' if count else f'equal: {total} arrays')
  return 1 if count else 0


if __name__ == '__main__':
  sys.exit(main())
