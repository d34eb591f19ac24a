"""What every test shares: two CPU cores, strict JAX, the golden data beside the project, and a tiny model."""

import atexit
import contextlib
import os
import resource
import shutil
import tempfile

os.environ.setdefault('NPROC', '16')  # simulated devices hang on few cores without it
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  # Several runs of one test compile the same step: the second takes it from here, programs that tests start too.
  os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='prompt_tuning_tests_')
  atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

import pathlib

import jax
import pytest

# Old-style keys are arrays of two numbers that nobody recognises as keys; nothing here may make one.
jax.config.update('jax_legacy_prng_key', 'error')

FIXTURES = pathlib.Path(__file__).parents[2] / 'shared' / 'fixtures'


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The folder of golden data made with T5X and transformers."""
  if not FIXTURES.exists():
    pytest.skip('no golden data: the folder ../shared/fixtures is absent')
  return FIXTURES


@pytest.fixture(scope='session')
def tiny():
  """A random T5 1.1 whose every dimension differs from the others, with token ids as its texts."""
  from prompt_tuning.data.vocabularies import PassThroughVocabulary
  from prompt_tuning.models.loading import random_model
  from prompt_tuning.models.t5 import T5Config

  config = T5Config(vocab_size=29, width=12, heads=3, head_dim=5, mlp_dim=14, encoder_layers=2, decoder_layers=3,
                    relative_buckets=6, relative_max_distance=9)
  return random_model(config, vocabulary=PassThroughVocabulary(29))


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
