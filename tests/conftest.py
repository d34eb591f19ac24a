"""What every test shares: two CPU cores, strict JAX, and the golden data beside the project."""

import os

os.environ.setdefault('NPROC', '16')  # simulated devices hang on few cores without it
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import pathlib

import pytest

FIXTURES = pathlib.Path(__file__).parents[2] / 'shared' / 'fixtures'


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """The folder of golden data made with T5X and transformers."""
  if not FIXTURES.exists():
    pytest.skip('no golden data: the folder ../shared/fixtures is absent')
  return FIXTURES
