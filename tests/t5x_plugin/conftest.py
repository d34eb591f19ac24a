"""Fixtures for tests of the plug-in for T5X; all tests are skipped without T5X."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
ABSENT = [name for name in ('t5x', 'flaxformer') if importlib.util.find_spec(name) is None]

# The shapes of the golden data, as macros and bindings of gin files for T5X.
RELATIVE = 'relative_position_biases.RelativePositionBiases'
IDS = ['VOCABULARY = @seqio.PassThroughVocabulary()', 'seqio.PassThroughVocabulary.size = 128',
       'seqio.PassThroughVocabulary.eos_id = 1']
SHAPES = {
  'own': ['NUM_HEADS = 3', 'HEAD_DIM = 5', 'EMBED_DIM = 10', 'MLP_DIM = 14', 'NUM_DECODER_LAYERS = 4',
          'PROMPT_LENGTH = 6', f'{RELATIVE}.num_buckets = 8', f'{RELATIVE}.max_distance = 11', 'NUM_EMBEDDINGS = 37',
          *IDS, 'seqio.PassThroughVocabulary.size = 37'],
  'tiny': ['NUM_HEADS = 2', 'HEAD_DIM = 2', 'EMBED_DIM = 4', 'MLP_DIM = 8', f'{RELATIVE}.num_buckets = 4',
           f'{RELATIVE}.max_distance = 8', 'NUM_EMBEDDINGS = 32128', *IDS],
  'small': ['NUM_HEADS = 4', 'HEAD_DIM = 8', 'EMBED_DIM = 32', 'MLP_DIM = 64', f'{RELATIVE}.num_buckets = 8',
            f'{RELATIVE}.max_distance = 16', 'NUM_EMBEDDINGS = 128', *IDS],
}
COMMON = ['NUM_ENCODER_LAYERS = 2', 'NUM_DECODER_LAYERS = 2', "ACTIVATION_DTYPE = 'float32'", 'PROMPT_LENGTH = 5']


def pytest_collection_modifyitems(items):
  """Skips the tests of this folder without T5X."""
  if ABSENT:
    skip = pytest.mark.skip(reason=f'{" and ".join(ABSENT)} cannot be imported: docs/t5x.md says how to get them')
    for item in items:
      if HERE in item.path.parents:
        item.add_marker(skip)


@pytest.fixture(autouse=True)
def old_keys():
  """Allows the old kind of random keys, which T5X makes and other tests of this package forbid."""
  import jax

  with jax.legacy_prng_key('allow'):
    yield


@pytest.fixture(scope='session')
def shape_file(tmp_path_factory):
  """Writes a gin file that gives a model file the shape of golden data."""

  def write(name):
    path = tmp_path_factory.mktemp('shapes') / f'{name}.gin'
    head = ['from __gin__ import dynamic_registration', 'import seqio',
            'from flaxformer.components import relative_position_biases', 'import toy_tasks']
    path.write_text('\n'.join([*head, *COMMON, *SHAPES[name], '']))
    return path

  return write


@pytest.fixture(scope='session')
def command(shape_file):
  """Returns arguments of `subprocess` that run a program of T5X, or of this package, on the small model like a user."""

  def make(name, *flags, **environment):
    theirs = name.startswith('t5x.')
    shape = f'--gin_file={shape_file("small")}'
    return {'args': [sys.executable, '-m', name, *flags, *([f'--gin_search_paths={ROOT}', shape] if theirs else [])],
            'cwd': ROOT, 'env': os.environ | environment | {
              'PYTHONPATH': f'{HERE}:{os.environ.get("PYTHONPATH", "")}', 'TF_CPP_MIN_LOG_LEVEL': '3'}}

  return make


@pytest.fixture(scope='session')
def program(command):
  """Runs a program and returns its output."""

  def run(name, *flags, status=0, **environment):
    done = subprocess.run(**command(name, *flags, **environment), capture_output=True, text=True, timeout=280)
    assert done.returncode == status, done.stderr[-3000:]
    return done.stdout + done.stderr

  return run
