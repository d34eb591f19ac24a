"""The cache of compiled programs: where it is, and what is said if it cannot be written."""

import logging
import warnings

import jax
import pytest

from prompt_tuning.devices import compilation


@pytest.fixture(autouse=True)
def unset(monkeypatch):
  """No cache is set, and afterwards the one of the tests is."""
  before = {name: getattr(jax.config, name) for name in (
    'jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs')}
  monkeypatch.setattr(warnings, 'showwarning', warnings.showwarning)
  jax.config.update('jax_compilation_cache_dir', None)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_the_cache_is_in_xdg_cache_home_and_an_empty_one_counts_as_none(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  for home, wanted in ((str(tmp_path / 'xdg'), tmp_path / 'xdg'), ('', tmp_path / '.cache')):
    jax.config.update('jax_compilation_cache_dir', None)
    monkeypatch.setenv('XDG_CACHE_HOME', home)
    compilation.use_cache()
    assert jax.config.jax_compilation_cache_dir == str(wanted / 'prompt_tuning')


def test_a_cache_that_cannot_be_written_is_told_once_and_not_used(tmp_path, monkeypatch, caplog):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  compilation.use_cache()
  assert jax.config.jax_compilation_cache_dir is None
  assert f'cannot be cached in {tmp_path}/file/prompt_tuning (Not a directory)' in caplog.text
  assert 'Set XDG_CACHE_HOME to a folder' in caplog.text


def test_a_cache_on_a_disk_that_becomes_full_is_told_once(tmp_path, monkeypatch, caplog):
  shown = []
  monkeypatch.setattr(warnings, 'showwarning', lambda message, *_: shown.append(str(message)))
  compilation.use_cache(str(tmp_path / 'cache'))
  with caplog.at_level(logging.WARNING):
    for name in ('jit_a', 'jit_b'):
      warnings.showwarning(f"Error writing persistent compilation cache entry for '{name}': OSError: full", UserWarning,
                           'compiler.py', 1)
      warnings.showwarning(f"Error reading persistent compilation cache entry for '{name}': error: torn", UserWarning,
                           'compiler.py', 1)
    warnings.showwarning('Something else', UserWarning, 'other.py', 1)
  assert shown == ['Something else']
  assert caplog.text.count("XDG_CACHE_HOME") == 1
  assert f'cannot be cached in {tmp_path}/cache (Error writing' in caplog.text
  assert caplog.text.count('Error reading') == 1
  assert f'If this is said at each start, delete {tmp_path}/cache' in caplog.text
