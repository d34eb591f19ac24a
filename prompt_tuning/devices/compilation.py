"""Compiling: JAX's cache of programs, and the memory that a compilation leaves behind."""

import contextlib
import ctypes
import os
from typing import Any


def use_cache(folder: str | None = None) -> None:
  """Keeps compiled programs in a folder, `~/.cache/prompt_tuning` unless JAX_COMPILATION_CACHE_DIR names another."""
  import jax

  if jax.config.jax_compilation_cache_dir:
    return
  default = os.path.join(os.environ.get('XDG_CACHE_HOME', os.path.expanduser('~/.cache')), 'prompt_tuning')
  jax.config.update('jax_compilation_cache_dir', folder or default)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def compile_step(function: Any, *arguments: Any) -> Any:
  """Returns a jitted function compiled for these arguments, and gives back the memory that compiling has freed.

  glibc keeps it otherwise, hundreds of megabytes, beside what the step needs.
  """
  release_freed_memory()
  compiled = function.lower(*arguments).compile()
  release_freed_memory()
  return compiled


def release_freed_memory() -> None:
  """Gives memory that was freed back to the system, where the C library can."""
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)
