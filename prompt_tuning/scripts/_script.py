"""Shared by the scripts: flags, and one message instead of a stack trace for a user's error."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from prompt_tuning.programs import arguments
from prompt_tuning.programs.ending import TRACEBACK

DTYPES = ('float32', 'bfloat16', 'float16')


def parser(name: str, description: str) -> argparse.ArgumentParser:
  """Returns a parser for `python3 -m prompt_tuning.scripts.NAME`; `description` is the script's docstring."""
  return arguments.Parser(
    prog=f'python3 -m prompt_tuning.scripts.{name}', description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter)


def run(flags: argparse.ArgumentParser, argv: Sequence[str] | None,
        body: Callable[[argparse.Namespace], int | None]) -> int:
  """Runs `body` with the flags; returns its exit status (0 for None), or 2 after the message about a user's error."""
  try:
    return body(flags.parse_args(argv)) or 0
  except (ValueError, OSError, ImportError) as error:
    if os.environ.get(TRACEBACK):
      raise
    print(f'{flags.prog.rpartition(".")[2]}: {error}', file=sys.stderr)
    return 2


def write_array(path: str, array: Any) -> None:
  """Atomically writes an array as NumPy under exactly this name; bfloat16, which NumPy lacks, becomes float32.

  Raises:
    OSError: the file cannot be written; an existing file is unchanged.
  """
  import numpy as np

  from prompt_tuning.files import storage

  array = np.asarray(array, np.float32 if array.dtype.name == 'bfloat16' else None)
  with storage.whole_file(path) as temporary, open(temporary, 'wb') as file:
    np.lib.format.write_array(file, array, allow_pickle=False)
