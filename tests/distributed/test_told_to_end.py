"""Preemption of a run by SIGTERM."""

import dataclasses
import json
import os
import signal
import sys

import pytest
import toy_run
from pod import Telling

from prompt_tuning.data.tasks import Mixture
from prompt_tuning.devices.preemption import Preemption
from prompt_tuning.training import loop

SETTINGS = {'saving': loop.Saving(1000), 'evaluations': {'loss_steps': 0, 'examples': 0}, 'packed': False,
            'dropout_rate': 0.0}


@pytest.fixture(autouse=True)
def in_front():
  """Ctrl-C as in the foreground of a shell, wherever the tests were started: a background job would ignore it."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


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


class Signalling:
  """A metric that sends a signal to this process when it is computed for the given time."""

  def __init__(self, number, time):
    self.number, self.time, self.calls = number, time, 0

  def __call__(self, targets, predictions):
    self.calls += 1
    if self.calls == self.time:
      os.kill(os.getpid(), self.number)
    return {'accuracy': float(self.calls)}


def judged(metric):
  """Returns settings of a run that evaluates after three steps, twice, and then once more at its end."""
  tasks = [dataclasses.replace(toy_run.TASK, name=name, metrics=(metric,)) for name in ('first', 'second')]
  both = Mixture('both', tuple(tasks), (1.0, 1.0))
  return {**SETTINGS, 'evaluations': {'task': both, 'loss_steps': 1, 'written': 1}, 'train_steps': 106}


@pytest.mark.parametrize(('number', 'kind', 'time', 'step'), [
  (signal.SIGTERM, SystemExit, 1, 103), (signal.SIGINT, KeyboardInterrupt, 3, 106)])
def test_a_signal_in_an_evaluation_saves_before_it_and_the_evaluation_is_repeated(tmp_path, capsys, number, kind, time,
                                                                                   step):
  metric = Signalling(number, time)
  with pytest.raises(kind):
    toy_run.train(tmp_path / 'told', **judged(metric), quiet=False)
  assert metric.calls == time, 'the second task was not evaluated'
  name = 'SIGTERM' if number == signal.SIGTERM else 'Ctrl-C'
  assert (f'{name}: saved at step {step} of 106. Run the same command again to resume with the evaluation of this '
          'step.') in capsys.readouterr().err
  evaluated = lambda folder: [(line['step'], line['folder']) for line in map(
    json.loads, open(tmp_path / folder / 'metrics.jsonl')) if line['folder'] != 'train']
  assert step not in dict(evaluated('told'))
  metric.calls, metric.time = metric.calls - 1, None  # the evaluation is repeated
  toy_run.train(tmp_path / 'told', **judged(metric))
  toy_run.train(tmp_path / 'straight', **judged(Signalling(number, None)))
  assert evaluated('told') == evaluated('straight')
  for name in ('checkpoint_106/state.safetensors', 'last.safetensors', 'best.safetensors'):
    assert (tmp_path / 'told' / name).read_bytes() == (tmp_path / 'straight' / name).read_bytes()


def test_a_second_ctrl_c_is_left_to_the_system_or_to_the_session(monkeypatch):
  for session, wanted in ((False, signal.SIG_DFL), (True, signal.default_int_handler)):
    if session:
      monkeypatch.setattr(sys, 'ps1', '>>> ', raising=False)
    with Preemption(quiet=True).watched() as preemption:
      assert not preemption.told()
      os.kill(os.getpid(), signal.SIGINT)
      assert preemption.told() and signal.getsignal(signal.SIGINT) is wanted
      assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_the_process_ignores_stays_ignored():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
  try:
    with Preemption().watched() as preemption:
      os.kill(os.getpid(), signal.SIGINT)
      assert not preemption.told()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, before)


def test_a_notice_before_and_after_a_run_is_not_taken(tmp_path):
  taken = []
  before = signal.signal(signal.SIGTERM, lambda number, frame: taken.append(number))
  try:
    toy_run.train(tmp_path, **SETTINGS, train_steps=101)
    os.kill(os.getpid(), signal.SIGTERM)
  finally:
    signal.signal(signal.SIGTERM, before)
  assert taken == [signal.SIGTERM]
