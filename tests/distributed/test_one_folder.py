"""Programs that are interrupted, killed and started twice in one folder."""

import re
import signal
import time

import pod
import processes
import pytest

EVER = 10**6  # steps


@pytest.mark.slow
def test_ctrl_c_resumes_at_its_step_and_a_killed_run_leaves_no_lock_behind(tmp_path):
  pod.make_model(tmp_path / 'model')
  command = processes.train(str(tmp_path / 'model'), str(tmp_path / 'run'), EVER,
                            '--gin.utils.SaveCheckpointConfig.period=1000000')
  with processes.started(command) as (first,):
    first.says('step 10/', 100)
    with processes.started(command) as (second,):
      assert second.ended(100) == 2
      assert re.search(rf'MODEL_DIR={tmp_path}/run is in use by process {first.process.pid} on ', second.printed)
    first.process.send_signal(signal.SIGINT)
    assert first.ended(30) == 130
    step = int(re.search(r'\nCtrl-C: saved at step (\d+) of 1000000', first.printed)[1])
    assert 'Press it again to end at once, with what was saved before' in first.printed
    assert 'Traceback' not in first.printed
  with processes.started(command) as (killed,):
    killed.says(f'Resumed at step {step} of', 100)
    killed.process.send_signal(signal.SIGKILL)
    assert killed.ended(10) == -signal.SIGKILL
  assert (tmp_path / 'run/lock.json').exists()
  with processes.started(command) as (last,):
    last.says(f'took over the lock of process {killed.process.pid}', 100)
    last.says(f'Resumed at step {step} of', 100)
    last.process.send_signal(signal.SIGINT)
    last.says('Ctrl-C: saving the state', 60)
    began = time.monotonic()
    last.process.send_signal(signal.SIGINT)
    assert last.ended(10) in (-signal.SIGINT, 130) and time.monotonic() - began < 5


@pytest.mark.slow
def test_a_program_whose_streams_are_closed_runs_to_its_end(tmp_path):
  pod.make_model(tmp_path / 'model')
  command = processes.train(str(tmp_path / 'model'), str(tmp_path / 'run'), 20)
  closing = f'import os, sys\nos.close(2)\nos.execv(sys.executable, [sys.executable, *{command!r}])'
  with processes.started(['-c', closing]) as (first,):
    assert first.ended(100) == 0, first.printed
  assert (tmp_path / 'run/checkpoint_20/state.safetensors').exists()
