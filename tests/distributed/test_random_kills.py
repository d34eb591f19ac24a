"""All processes of a run are killed with signal 9 at random moments, and restarted."""

import random
import signal
import time

import pod
import processes
import pytest

KILLS = 20
STEPS = 400
SAVED = '--gin.utils.SaveCheckpointConfig.period=1'
FILES = (f'checkpoint_{STEPS}/state.safetensors', 'last.safetensors')


def reached(folder):
  states = folder.glob('checkpoint_*/state.safetensors')
  return max((int(path.parent.name.removeprefix('checkpoint_')) for path in states), default=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_processes_that_are_killed_twenty_times_end_with_the_same_bits(tmp_path):
  pod.make_model(tmp_path / 'model')
  run = lambda name: processes.started(*(
    processes.train(str(tmp_path / 'model'), str(tmp_path / name), STEPS, SAVED, *flags)
    for flags in processes.joined(2)))
  with run('whole') as both:
    assert [each.ended(300) for each in both] == [0, 0], both[0].printed
  killed = tmp_path / 'killed'
  kills, starts = 0, []
  while kills < KILLS:
    before = reached(killed)
    with run('killed') as both:
      deadline = time.monotonic() + 120
      while reached(killed) == before and time.monotonic() < deadline:
        time.sleep(0.01)  # until it has resumed
      assert reached(killed) > before, both[0].printed
      time.sleep(random.uniform(0, 0.2))
      for each in random.sample(both, 2):
        each.process.send_signal(signal.SIGKILL)
      # On a busy machine one may notice that the other is gone, and leave with status 3, before it is killed too.
      ended = {each.ended(10) for each in both}
      assert -signal.SIGKILL in ended <= {-signal.SIGKILL, 3}, 'it came to its end: raise STEPS'
    starts.append(before)
    kills += 1
  with run('killed') as both:
    assert [each.ended(300) for each in both] == [0, 0], both[0].printed
  print(f'killed {kills} times, started at the steps {[*starts, reached(killed)]}')
  for name in FILES:
    assert (killed / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes(), name
