"""Preemption of a run by SIGTERM."""

import os
import signal

import pytest
import toy_run
from pod import Telling

from prompt_tuning.training import loop

SETTINGS = {'saving': loop.Saving(1000), 'evaluations': {'loss_steps': 0, 'examples': 0}, 'packed': False,
            'dropout_rate': 0.0}


def test_a_run_that_is_told_to_end_saves_and_goes_on_to_the_same_bits(tmp_path, capsys, monkeypatch):
  before = signal.getsignal(signal.SIGTERM)
  monkeypatch.setitem(toy_run.TASK.splits, 'train', Telling(toy_run.TASK.splits['train']))
  with pytest.raises(SystemExit) as ended:
    toy_run.train(tmp_path / 'told', **SETTINGS, train_steps=1100, quiet=False)
  assert ended.value.code == 0
  assert signal.getsignal(signal.SIGTERM) is before  # a second SIGTERM ends the process
  (name,) = (path.name for path in (tmp_path / 'told').glob('checkpoint_*'))
  step = int(name.removeprefix('checkpoint_'))
  assert 100 < step < 110
  assert f'SIGTERM: saved at step {step} of 1100. Run the same command again to resume.' in capsys.readouterr().err
  for folder in ('told', 'straight'):
    toy_run.train(tmp_path / folder, **SETTINGS, train_steps=112)
  for name in ('checkpoint_112/state.safetensors', 'last.safetensors'):
    assert (tmp_path / 'told' / name).read_bytes() == (tmp_path / 'straight' / name).read_bytes()


def test_a_notice_before_and_after_a_run_is_not_taken(tmp_path):
  taken = []
  before = signal.signal(signal.SIGTERM, lambda number, frame: taken.append(number))
  try:
    toy_run.train(tmp_path, **SETTINGS, train_steps=101)
    os.kill(os.getpid(), signal.SIGTERM)
  finally:
    signal.signal(signal.SIGTERM, before)
  assert taken == [signal.SIGTERM]
