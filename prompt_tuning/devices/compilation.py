"""Compilation: JAX's persistent cache, and the memory that compilation leaves allocated."""

import contextlib
import ctypes
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
