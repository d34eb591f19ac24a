"""A run that is interrupted anywhere and resumed ends with the bits of an uninterrupted run."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import toy_run
from toy_run import TASK

from prompt_tuning import prompts
from prompt_tuning.checkpoints.state import read_state
from prompt_tuning.data import metrics
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.training import loop


class PowerCut(BaseException):
  """An exception that no code catches."""


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """An uninterrupted run."""
  return toy_run.train(tmp_path_factory.mktemp('straight'))


def interrupted_task(after):
  """Returns the task with a metric that stops everything at the given evaluation."""
  calls = iter(range(100))

  def metric(targets, predictions):
    if next(calls) == after:
      raise PowerCut
    return metrics.accuracy(targets, predictions)

  return dataclasses.replace(TASK, metrics=(metric,))


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
  """Returns the lines of metrics.jsonl without the values that depend on the clock."""
  lines = [json.loads(line) for line in open(f'{folder}/metrics.jsonl')]
  return [{name: value for name, value in line.items() if 'per_second' not in name} for line in lines]


def test_a_run_that_was_cut_off_twice_ends_with_the_same_bits(straight, tmp_path):
  for evaluation in (0, 1):  # after step 103 and, resumed from step 102, after step 106
    with pytest.raises(PowerCut):
      toy_run.train(tmp_path, task=interrupted_task(evaluation))
  resumed = toy_run.train(tmp_path)
  assert_same_end(resumed, straight)
  assert figures(tmp_path) == figures(straight.folder)


def test_a_run_that_is_given_more_steps_goes_on_with_the_same_bits_and_drops_lines_that_are_written_again(
    straight, tmp_path):
  assert toy_run.train(tmp_path, train_steps=103).step == 103
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write(json.dumps({'step': 104, 'folder': 'train', 'loss': -1.0}) + '\n{"step": 10')  # and a truncated line
  assert_same_end(toy_run.train(tmp_path), straight)
  assert figures(tmp_path) == figures(straight.folder)


def test_a_run_without_a_seed_draws_one_and_keeps_it(straight, tmp_path):
  seed = lambda step: read_state(f'{tmp_path}/checkpoint_{step}/state.safetensors')[1]['run']['seed']
  toy_run.train(tmp_path, seed=None, train_steps=101)
  drawn = seed(101)
  run = toy_run.train(tmp_path, seed=None, train_steps=102)
  assert seed(102) == drawn
  assert (run.trained[prompts.PATH] != straight.trained[prompts.PATH]).any()


def test_starting_a_finished_run_again_changes_nothing(straight, tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(straight.folder, folder)
  again = toy_run.train(folder)
  assert_same_end(again, straight)
  assert figures(folder) == figures(straight.folder)


@pytest.mark.parametrize(('settings', 'message'), [
  ({'batch_size': 5}, r'holds another run \(batch_size: 4 there, 5 here\). Choose another folder'),
  ({'seed': 6}, r'seed: 5 there, 6 here'),
  ({'method': prompts.PromptTuning(prompts.Prompt(2))}, r'prompt_length: 3 there, 2 here'),
  ({'method': prompts.PromptTuning(prompts.Prompt(3), visibility=Visibility(input=False))}, r'visibility: .* there'),
  ({'changes': {'path': 'models/other'}}, r"model: 'toy' there, 'other' here"),
])
def test_the_folder_of_another_run_is_refused_and_left_as_it_is(straight, settings, message):
  before = tensors(straight.folder, 106)
  with pytest.raises(ValueError, match=message):
    toy_run.train(straight.folder, **settings)
  np.testing.assert_array_equal(before[f'trained/{prompts.PATH}'],
                                tensors(straight.folder, 106)[f'trained/{prompts.PATH}'])


def test_a_run_that_stops_at_an_accuracy_stops_at_the_same_step_when_it_is_interrupted(tmp_path):
  # Over twelve examples, three steps: the steps before the interruption count.
  settings = {'stop': loop.Stop(0.0, 12), 'log_period': 1, 'saving': loop.Saving(1)}
  straight = toy_run.train(tmp_path / 'straight', **settings)
  assert straight.step == toy_run.START + 3
  toy_run.train(tmp_path / 'resumed', **settings, train_steps=toy_run.START + 2)
  assert toy_run.train(tmp_path / 'resumed', **settings).step == straight.step
  assert toy_run.train(tmp_path / 'resumed', **settings).step == straight.step  # it is finished
