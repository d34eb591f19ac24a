"""Shared by the tests of scripts: small checkpoints, and a function that runs a script in this process."""

import importlib
import pathlib

import pytest
from toy_checkpoint import NAMED

from prompt_tuning.checkpoints.t5x import write_t5x


@pytest.fixture
def script(capsys):
  """Runs a script and returns its exit status, standard output and standard error."""

  def run(name: str, *arguments) -> tuple[int, str, str]:
    status = importlib.import_module(f'prompt_tuning.scripts.{name}').main([str(each) for each in arguments])
    return status, *capsys.readouterr()

  return run


@pytest.fixture
def checkpoint(tmp_path) -> pathlib.Path:
  """A T5X checkpoint of `NAMED`, saved at step 70."""
  return pathlib.Path(write_t5x(str(tmp_path / 'frozen'), 70, NAMED))


@pytest.fixture
def refused(script):
  """Runs a script with invalid input and returns its single message on standard error; its exit status is 2."""

  def run(name: str, *arguments) -> str:
    status, printed, message = script(name, *arguments)
    assert (status, printed) == (2, '')
    assert message.startswith(f'{name}: ')
    return message

  return run
