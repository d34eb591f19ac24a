"""Compilation: JAX's persistent cache, and the memory that compilation leaves allocated."""

import contextlib
import ctypes
import functools
import logging
import os
import tempfile
import warnings
from typing import Any

_LOG = logging.getLogger(__name__)
# The beginnings of its warnings, one for each program.
_OF_JAX = tuple(f'Error {verb} persistent compilation cache entry' for verb in ('writing', 'reading'))


def use_cache(folder: str | None = None) -> None:
  """Caches compiled programs in a folder, `prompt_tuning` in XDG_CACHE_HOME or ~/.cache unless one is given.

  JAX_COMPILATION_CACHE_DIR names another one. If it cannot be written, this is said once, and nothing is cached.
  """
  import jax

  given = jax.config.jax_compilation_cache_dir
  folder = given or folder or os.path.join(
    os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'prompt_tuning')
  if '://' not in folder:
    try:
      os.makedirs(folder, exist_ok=True)
      with tempfile.TemporaryFile(dir=folder):
        pass
    except OSError as error:
      jax.config.update('jax_compilation_cache_dir', None)
      _LOG.warning(_advice(folder, error.strerror or error))
      return
  _warn_once(folder)
  if not given:
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


@functools.cache
def _warn_once(folder: str) -> None:
  """Replaces JAX's warnings about the cache by one for entries that cannot be written, and one for unreadable ones."""
  show, said = warnings.showwarning, set()

  def show_others(message: Any, *arguments: Any, **options: Any) -> None:
    text = str(message)
    if not text.startswith(_OF_JAX):
      show(message, *arguments, **options)
    elif (kind := text.startswith(_OF_JAX[0])) not in said:
      said.add(kind)
      _LOG.warning(_advice(folder, text) if kind else f'{text} It is compiled again. If this is said at each start, '
                   f'delete {folder}: a program that was killed, or a full disk, has left half an entry there.')

  warnings.showwarning = show_others


def _advice(folder: str, found: Any) -> str:
  return (f'Compiled programs cannot be cached in {folder} ({found}), so they are compiled again at each start. Set '
          'XDG_CACHE_HOME to a folder for caches that can be written, or JAX_COMPILATION_CACHE_DIR.')


@functools.cache
def _spent() -> list[float]:
  """Returns the seconds that XLA has compiled, which grow from the first call on."""
  import jax

  total = [0.0]

  def add(event: str, seconds: float, **_: Any) -> None:
    if event == '/jax/core/compile/backend_compile_duration':
      total[0] += seconds

  jax.monitoring.register_event_duration_secs_listener(add)
  return total


def seconds() -> float:
  """Returns the seconds that XLA has compiled since the first call."""
  return _spent()[0]


def compile_step(function: Any, *arguments: Any) -> Any:
  """Returns a jitted function compiled for these arguments, and returns freed memory to the system.

  Otherwise glibc keeps hundreds of megabytes that compilation has freed, in addition to the step's memory.
  """
  release_freed_memory()
  compiled = function.lower(*arguments).compile()
  release_freed_memory()
  return compiled


def release_freed_memory() -> None:
  """Returns freed memory to the system, if the C library supports it."""
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)
