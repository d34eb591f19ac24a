"""Compilation: JAX's persistent cache, and the memory that compilation leaves allocated."""

import contextlib
import ctypes
import functools
import os
from typing import Any


def use_cache(folder: str | None = None) -> None:
  """Caches compiled programs in a folder, `~/.cache/prompt_tuning` unless JAX_COMPILATION_CACHE_DIR names another."""
  import jax

  if jax.config.jax_compilation_cache_dir:
    return
  default = os.path.join(os.environ.get('XDG_CACHE_HOME', os.path.expanduser('~/.cache')), 'prompt_tuning')
  jax.config.update('jax_compilation_cache_dir', folder or default)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


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
