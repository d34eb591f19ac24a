"""What every test shares: two CPU cores, strict JAX, the golden data beside the project, and a tiny model."""

import asyncio
import atexit
import contextlib
import gc
import importlib.metadata
import os
import pathlib
import resource
import shutil
import tempfile
import types

os.environ.setdefault('NPROC', '2')  # one device needs no more threads
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('HF_HUB_OFFLINE', '1')  # no test asks the hub for a path that does not exist
# Toy programs compile in seconds and run in microseconds: XLA need not try hard. Set it to 0 to test what users run.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
if os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] == '1' and importlib.metadata.version('jaxlib').startswith('0.10.'):
  # Halves the rest. Versions that do not know the flags would end the process, hence the check.
  os.environ['XLA_FLAGS'] = ' '.join((os.environ.get('XLA_FLAGS', ''), '--xla_cpu_use_fusion_emitters=false',
                                      '--xla_cpu_parallel_codegen_split_count=1'))
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  # Several runs of one test compile the same step: the second takes it from here, programs that tests start too.
  os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='prompt_tuning_tests_')
  atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')  # where each operation stands takes a tenth of lowering
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

import jax
import pytest

gc.set_threshold(50_000, 20, 100)  # tracing makes many objects, few of them in cycles

# Old-style keys are arrays of two numbers that nobody recognises as keys; nothing here may make one.
jax.config.update('jax_legacy_prng_key', 'error')


TESTS = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(config, items):
  """Marks the tests of `slow_variants` as slow, and its variants as variants, unless they are rare or slow anyway.

  Raises:
    UsageError: an entry there names no test of a file that was collected whole.
  """
  import slow_variants

  ids = {str(item.path.relative_to(TESTS)) + item.nodeid[item.nodeid.index('::'):]: item for item in items}
  found = {entry: [name for name in ids if name.startswith(entry)]
           for entry in (*slow_variants.VARIANTS, *slow_variants.RARE)}
  rare = {name for entry in slow_variants.RARE for name in found[entry]}
  for name in {name for names in found.values() for name in names}:
    if name not in rare and ids[name].get_closest_marker('slow') is None:
      ids[name].add_marker(pytest.mark.variant)
    ids[name].add_marker(pytest.mark.slow)
  whole = {name.partition('::')[0] for name in ids} if not any('::' in arg for arg in config.args) else ()
  unknown = [entry for entry, names in found.items() if not names and entry.partition('::')[0] in whole]
  if unknown:
    raise pytest.UsageError(f'tests/slow_variants.py names tests that do not exist: {", ".join(unknown)}')


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The folder of golden data beside the project, made with T5X and transformers."""
  import golden_models

  return golden_models.shared_folder()


@pytest.fixture(scope='session')
def users_environment() -> dict[str, str]:
  """The environment without what this file sets to compile faster and run slower, for programs that run long."""
  return {name: value for name, value in os.environ.items()
          if name not in ('NPROC', 'JAX_DISABLE_MOST_OPTIMIZATIONS', 'XLA_FLAGS')}


@pytest.fixture(scope='session')
def tiny():
  """A random T5 1.1 whose every dimension differs from the others, with token ids as its texts."""
  import toy_run

  return toy_run.model()


@pytest.fixture(scope='session')
def causal():
  """A random decoder-only model with learned positions, with token ids as its texts."""
  from prompt_tuning.data.vocabularies import PassThroughVocabulary
  from prompt_tuning.models.decoder_only import DecoderConfig
  from prompt_tuning.models.loading import random_model

  config = DecoderConfig(vocab_size=29, layers=2, width=12, heads=3, head_dim=4, mlp_dim=14, kv_heads=1,
                         position_count=30)
  return random_model(config, vocabulary=PassThroughVocabulary(29), seed=3)


@pytest.fixture
def full_disk():
  """A context in which no file can grow beyond some bytes, as if the disk were full."""

  @contextlib.contextmanager
  def limit(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
      yield
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

  return limit


@pytest.fixture
def store(tmp_path, monkeypatch):
  """An object store on loopback with one bucket, gs://bucket. What fails is asked for again without waiting."""
  import object_store

  monkeypatch.setattr('gcsfs.retry.asyncio', types.SimpleNamespace(sleep=lambda seconds: asyncio.sleep(0)))
  (tmp_path / 'store/bucket').mkdir(parents=True)
  found = object_store.Store(tmp_path / 'store')
  monkeypatch.setenv('STORAGE_EMULATOR_HOST', found.address)
  yield found
  found.close()
