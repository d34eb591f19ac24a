"""What the tests of scripts share: small checkpoints, and a function that runs a script in this process."""

import importlib
import pathlib

import pytest
from toy_checkpoint import NAMED

from prompt_tuning.checkpoints.t5x import write_t5x


@pytest.fixture
def script(capsys):
  """Runs a script: returns its exit status and what it printed on standard output and standard error."""

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
  """Runs a script with a wrong input and returns its message: one, on standard error, with exit status 2."""

  def run(name: str, *arguments) -> str:
    status, printed, message = script(name, *arguments)
    assert (status, printed) == (2, '')
    assert message.startswith(f'{name}: ')
    return message

  return run
