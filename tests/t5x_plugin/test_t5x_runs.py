"""Runs of T5X's train that are killed, prune their checkpoints, or are spread over two devices."""

import re
import subprocess
import time

import numpy as np
import pytest
from test_t5x_programs import START, prompt_of, train_flags

EPOCH = 6  # steps: after whole epochs in order, a resumed run reads the same examples as an uninterrupted one


def flags(shared, folder, steps, **given):
  """Returns flags of a run that reads its examples in order and saves after each epoch."""
  given = {'train/utils.DatasetConfig.shuffle': False, 'EVAL_PERIOD': EPOCH, 'utils.SaveCheckpointConfig.period': EPOCH,
           'utils.SaveCheckpointConfig.keep': 2, **given}
  return [*train_flags(shared, folder, steps, 'ckpt_native'),
          *(f'--gin.{name}={value}' for name, value in given.items())]


def steps_of(folder):
  """Returns the steps of a folder's complete checkpoints after the first."""
  found = [re.fullmatch(r'checkpoint_(\d+)', path.name) for path in folder.glob('checkpoint_*')]
  return sorted(int(match.group(1)) - START for match in found if match)


def kill_after_the_first_epoch(command, folder):
  """Starts a program, and kills it as soon as one of its checkpoints is complete."""
  process = subprocess.Popen(**command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  try:
    limit = time.monotonic() + 200
    while max(steps_of(folder), default=0) < EPOCH:
      assert process.poll() is None and time.monotonic() < limit
      time.sleep(0.02)
  finally:
    process.kill()
    process.wait()


@pytest.fixture(scope='module', params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=['orbax', 'native'])
def killed_and_whole(request, shared, command, program, tmp_path_factory):
  """The folders of a run that was killed and resumed for an epoch, and of an uninterrupted one, and their steps."""
  killed, whole = (tmp_path_factory.mktemp(name) for name in ('killed', 'whole'))
  form = {'train.use_orbax': request.param}
  kill_after_the_first_epoch(command('t5x.train', *flags(shared, killed, 1000 * EPOCH, **form)), killed)
  steps = steps_of(killed)[-1] + EPOCH
  for folder in (killed, whole):
    program('t5x.train', *flags(shared, folder, steps, **form))
  return killed, whole, steps


def test_a_run_that_was_killed_ends_like_one_that_was_not(killed_and_whole, shared):
  from prompt_tuning.models.loading import open_checkpoint

  killed, whole, steps = killed_and_whole
  np.testing.assert_array_equal(prompt_of(killed, steps), prompt_of(whole, steps))
  assert np.abs(prompt_of(killed, steps) - prompt_of(killed, steps - EPOCH)).max() > 0.1
  reader = open_checkpoint(str(killed / f'checkpoint_{START + steps}'))
  before = np.load(shared / 't5x/d_small/params.npz')
  for name in before.files:
    np.testing.assert_array_equal(reader.read(name), before[name], err_msg=name)


def test_prompts_are_kept_as_long_as_their_checkpoints(killed_and_whole):
  killed, _, steps = killed_and_whole
  assert steps_of(killed) == [steps - EPOCH, steps]
  kept = steps_of(killed / 'numpy_checkpoints')
  assert kept[-2:] == steps_of(killed) and len(kept) <= 3  # one more until the next save


def losses(folder):
  """Returns the training losses that T5X has logged."""
  import tensorflow as tf

  (file,) = (folder / 'train').glob('events*')
  return [float(tf.make_ndarray(value.tensor)) for event in tf.compat.v1.train.summary_iterator(str(file))
          for value in event.summary.value if value.tag == 'loss']


def test_two_devices_give_the_loss_and_prompt_of_one(shared, program, tmp_path):
  folders = {}
  for count in (1, 2):
    folders[count] = tmp_path / str(count)
    devices = {'XLA_FLAGS': f'--xla_force_host_platform_device_count={count}', 'NPROC': '16', 'JAX_PLATFORMS': 'cpu'}
    program('t5x.train', *flags(shared, folders[count], 3, **{
      'partitioning.PjitPartitioner.num_partitions': count, 'EVAL_PERIOD': 1,
      'utils.SaveCheckpointConfig.period': 3}), **devices)
    stored = (folders[count] / f'checkpoint_{START + 3}/state/_sharding').read_text()
    assert f'\\"shape\\": [1, {count}], \\"axis_names\\": [\\"data\\", \\"model\\"]' in stored
  assert len(losses(folders[1])) == 3
  np.testing.assert_allclose(losses(folders[2]), losses(folders[1]), rtol=1e-5)
  np.testing.assert_allclose(prompt_of(folders[2], 3), prompt_of(folders[1], 3), atol=1e-3)
