"""Programs that are killed with signal 9 at random moments and resumed."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = f"""
import sys
sys.path.insert(0, {str(pathlib.Path(__file__).parents[1])!r})
import toy_run
from prompt_tuning.training import loop

toy_run.train(sys.argv[1], train_steps=140, saving=loop.Saving(1, keep=2))
"""
FILES = ('checkpoint_140/state.safetensors', 'last.safetensors', 'best.safetensors',
         'numpy_checkpoints/checkpoint_140/encoder.prompt.prompt.prompt')


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_files(tmp_path):
  command = lambda folder: [sys.executable, '-c', PROGRAM, str(tmp_path / folder)]
  states = lambda: set((tmp_path / 'killed').glob('checkpoint_*/state.safetensors'))
  subprocess.run(command('whole'), check=True)
  kills = 0
  for _ in range(5):
    before, process = states(), subprocess.Popen(command('killed'))
    while process.poll() is None and states() <= before:
      time.sleep(0.01)  # until it has saved a step
    time.sleep(random.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    kills += process.wait() == -signal.SIGKILL
  subprocess.run(command('killed'), check=True)
  assert kills
  for name in FILES:
    assert (tmp_path / 'killed' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes(), name
