"""A run that was stopped anywhere and started again ends with the bits of one that was not."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from prompt_tuning import prompts
from prompt_tuning.checkpoints.state import read_state
from prompt_tuning.data import metrics
from prompt_tuning.tuning.retrained import Retrained


class PowerCut(BaseException):
  """What no code catches."""


@pytest.fixture(scope='module')
def straight(train_tiny, tmp_path_factory):
  """A run that nothing interrupted."""
  return train_tiny(tmp_path_factory.mktemp('straight'))


def interrupted_task(task, after):
  """Returns the task with a metric that stops everything at the given evaluation."""
  calls = iter(range(100))

  def metric(targets, predictions):
    if next(calls) == after:
      raise PowerCut
    return metrics.accuracy(targets, predictions)

  return dataclasses.replace(task, metrics=(metric,))


def tensors(folder, step):
  return read_state(f'{folder}/checkpoint_{step}/state.safetensors')[0]


def assert_same_end(found, wanted):
  assert found.step == wanted.step
  for name, array in wanted.trained.items():
    np.testing.assert_array_equal(found.trained[name], array)
  ours, theirs = tensors(found.folder, found.step), tensors(wanted.folder, wanted.step)
  assert ours.keys() == theirs.keys()
  for name in theirs:
    np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
  assert (found.metrics, found.best) == (wanted.metrics, wanted.best)


def figures(folder):
  """Returns the lines of metrics.jsonl without what depends on the clock."""
  lines = [json.loads(line) for line in open(f'{folder}/metrics.jsonl')]
  return [{name: value for name, value in line.items() if 'per_second' not in name} for line in lines]


@pytest.mark.parametrize('evaluation', [0, 1])  # after steps 3 and 6: the newest states are of 2 and 4
def test_a_run_that_was_cut_off_ends_with_the_same_bits(train_tiny, straight, task, tmp_path, evaluation):
  with pytest.raises(PowerCut):
    train_tiny(tmp_path, task=interrupted_task(task, evaluation))
  resumed = train_tiny(tmp_path)
  assert_same_end(resumed, straight)
  assert figures(tmp_path) == figures(straight.folder)


def test_a_run_that_is_given_more_steps_goes_on_with_the_same_bits(train_tiny, straight, tmp_path):
  assert train_tiny(tmp_path, train_steps=103).step == 103
  assert_same_end(train_tiny(tmp_path), straight)


def test_a_run_without_a_seed_keeps_the_one_that_it_drew(train_tiny, tmp_path):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  train_tiny(parts, seed=None, train_steps=103)
  _, metadata = read_state(f'{parts}/checkpoint_103/state.safetensors')
  resumed = train_tiny(parts, seed=None)
  assert_same_end(resumed, train_tiny(whole, seed=metadata['run']['seed']))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(train_tiny, straight, tmp_path):
  again, other = train_tiny(tmp_path / 'again'), train_tiny(tmp_path / 'other', seed=6)
  assert_same_end(again, straight)
  assert (again.trained[prompts.PATH] != other.trained[prompts.PATH]).any()


def test_starting_a_finished_run_again_changes_nothing(train_tiny, straight, tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(straight.folder, folder)
  again = train_tiny(folder)
  assert_same_end(again, straight)
  assert figures(folder) == figures(straight.folder)


def test_lines_of_steps_that_run_again_are_dropped_and_a_torn_last_line_too(train_tiny, straight, tmp_path):
  train_tiny(tmp_path, train_steps=103)
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write(json.dumps({'step': 104, 'folder': 'train', 'loss': -1.0}) + '\n{"step": 10')
  resumed = train_tiny(tmp_path)
  assert_same_end(resumed, straight)
  assert -1.0 not in [line.get('loss') for line in figures(tmp_path)]


def test_retrained_parameters_resume_with_the_same_bits_and_leave_the_frozen_ones(tiny, train_tiny, tmp_path):
  before = jax.device_get(tiny.params)
  method = Retrained(['encoder/layers_1/mlp/wi_.*', '.*layer_norm/scale'])
  settings = {'method': method, 'dropout_rate': 0.0, 'evaluations': {'period': 2}}
  train_tiny(tmp_path / 'parts', **settings, train_steps=102)
  resumed = train_tiny(tmp_path / 'parts', **settings, train_steps=104)
  assert_same_end(resumed, train_tiny(tmp_path / 'whole', **settings, train_steps=104))
  jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(tiny.params))


@pytest.mark.parametrize(('settings', 'message'), [
  ({'batch_size': 5}, r'holds another run \(batch_size: 4 there, 5 here\). Choose another MODEL_DIR'),
  ({'seed': 6}, r'seed: 5 there, 6 here'),
  ({'method': prompts.PromptTuning(prompts.Prompt(2))}, r'prompt_length: 3 there, 2 here'),
  ({'model': {'path': 'models/other'}}, r"model: 'toy' there, 'other' here"),
])
def test_the_folder_of_another_run_is_refused_and_left_as_it_is(train_tiny, straight, settings, message):
  before = tensors(straight.folder, 106)
  with pytest.raises(ValueError, match=message):
    train_tiny(straight.folder, **settings)
  np.testing.assert_array_equal(before[f'trained/{prompts.PATH}'],
                                tensors(straight.folder, 106)[f'trained/{prompts.PATH}'])
