"""Files written in a thread: errors are raised, and nothing is written after one."""

import threading

import pytest
import toy_run

from prompt_tuning.training import loop
from prompt_tuning.training.background import Background


def fail():
  raise OSError('the disk is full')


def test_functions_run_in_order_and_have_run_when_the_block_ends():
  done = []
  with Background() as background:
    for number in range(20):
      background.run(done.append, number)
  assert done == list(range(20))


def test_an_error_is_raised_where_the_block_ends_or_waits_and_nothing_is_run_behind_it():
  done = []
  for end in (lambda background: None, lambda background: background.wait()):
    with pytest.raises(OSError, match='the disk is full'), Background() as background:
      background.run(done.append, 1)
      background.run(fail)
      background.run(done.append, 2)
      end(background)
  assert done == [1, 1]


def test_an_error_is_raised_by_the_next_functions_and_the_blocks_own_error_is_not_hidden():
  begun = threading.Event()

  def fail_late():
    begun.set()
    fail()

  with pytest.raises(OSError, match='the disk is full'), Background() as background:
    background.run(fail_late)
    begun.wait()
    for _ in range(10**6):
      background.run(int)
  with pytest.raises(FloatingPointError), Background() as background:
    background.run(fail)
    raise FloatingPointError


def test_a_slow_disk_is_waited_for_so_that_few_copies_wait():
  go, most = threading.Event(), []
  with Background() as background:
    threading.Timer(0.2, go.set).start()
    for number in range(6):
      background.run(go.wait)
      most.append(number if not go.is_set() else 0)
  assert max(most) == 2  # three are queued: the fourth waits for the first


def test_a_run_on_a_full_disk_ends_with_the_message_and_no_torn_state(full_disk, tmp_path):
  folder, settings = tmp_path / 'run', {'saving': loop.Saving(1), 'evaluations': {'loss_steps': 0, 'examples': 0}}
  toy_run.train(tmp_path / 'before', **settings)  # compiled programs are also written
  with full_disk(1500), pytest.raises(OSError, match=r'cannot be written: .*too large.* Free some'):
    toy_run.train(folder, **settings)
  assert not list(folder.glob('checkpoint_*/state.safetensors')) and not list(folder.rglob('*tmp*'))
