"""JAX's cache of compiled programs: the second start of the same run compiles nothing."""

import os


def use_cache(folder: str | None = None) -> None:
  """Keeps compiled programs in a folder, `~/.cache/prompt_tuning` unless JAX_COMPILATION_CACHE_DIR names another."""
  import jax

  if jax.config.jax_compilation_cache_dir:
    return
  default = os.path.join(os.environ.get('XDG_CACHE_HOME', os.path.expanduser('~/.cache')), 'prompt_tuning')
  jax.config.update('jax_compilation_cache_dir', folder or default)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
