"""A run that is interrupted anywhere and resumed ends with the bits of an uninterrupted run."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import optax
import pytest
import toy_run
from toy_run import TASK

from prompt_tuning import prompts
from prompt_tuning.checkpoints.state import read_state
from prompt_tuning.data import metrics
from prompt_tuning.evaluation import saved
from prompt_tuning.losses import Loss
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.training import loop
from prompt_tuning.training.optimizers import Adafactor
from prompt_tuning.training.schedules import create_schedule
from prompt_tuning.tuning.prefix import Prefix


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
  """Returns the lines of metrics.jsonl without those of time and memory."""
  lines = [json.loads(line) for line in open(f'{folder}/metrics.jsonl')]
  measured = ('per_second', '_bytes')
  return [{name: value for name, value in line.items() if not name.endswith(measured)} for line in lines]


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
  ({'task': dataclasses.replace(toy_run.TASK, splits=toy_run.TASK.splits | {'train': toy_run._examples(10, 7)})},
   r"the training examples \(digest\): '\w+' there, '\w+' here"),
  ({'changes': {'params': jax.tree.map(lambda x: 0.5 * x, toy_run.model().params)}},
   r"the frozen model's weights \(digest\): '\w+' there, '\w+' here"),
  ({'optimizer': Adafactor(0.1)}, r'the learning rates of steps 0, 1, 10, .*: \[0.3\d*, .* there, \[0.1\d*, .* here'),
  ({'optimizer': dataclasses.replace(toy_run.OPTIMIZER, weight_decay_rate=0.5)}, r'optimizer_settings: .* there'),
  ({'loss': Loss(z_loss=0.5)}, r"loss_settings: \{'z_loss': 0.0001, .* there"),
  ({'dropout_rate': 0.2}, r'dropout_rate: 0.1 there, 0.2 here'),
  ({'buckets': [3, 6], 'packed': False}, r'packed: True there, False here; buckets: None there, \[3, 6\] here'),
])
def test_the_folder_of_another_run_is_refused_and_left_as_it_is(straight, settings, message):
  before = tensors(straight.folder, 106)
  with pytest.raises(ValueError, match=message):
    toy_run.train(straight.folder, **settings)
  np.testing.assert_array_equal(before[f'trained/{prompts.PATH}'],
                                tensors(straight.folder, 106)[f'trained/{prompts.PATH}'])


def test_more_steps_are_another_run_only_if_the_rate_depends_on_their_number(tmp_path):
  falling = lambda steps: Adafactor(create_schedule('linear_decay', 0.3, warmup_steps=100, total_steps=steps))
  toy_run.train(tmp_path, optimizer=falling(102), train_steps=102)
  with pytest.raises(ValueError, match=r'The learning rate depends on the number of steps.* by extend=True'):
    toy_run.train(tmp_path, optimizer=falling(104), train_steps=104)
  assert toy_run.train(tmp_path, optimizer=falling(104), train_steps=104, extend=True).step == 104


def test_a_run_that_has_ended_says_so_and_its_files_stay(tmp_path, capsys):
  toy_run.train(tmp_path, train_steps=102, files={'run.toml': 'first'}, evaluations={'period': 2})
  toy_run.train(tmp_path, train_steps=102, files={'run.toml': 'second'}, quiet=False, evaluations={'period': 2})
  assert (tmp_path / 'run.toml').read_text() == 'first'
  assert f'The run in {tmp_path} has ended at step 102; best step 102, turn/accuracy' in capsys.readouterr().err


def test_any_method_starts_from_saved_tensors_of_its_own_kind(tmp_path):
  method = Prefix(2)
  first = toy_run.train(tmp_path / 'first', method=method, train_steps=102)
  begun = saved.load_trained(str(tmp_path / 'first/last.safetensors'))
  run = toy_run.train(tmp_path / 'second', method=method, train_steps=101, start_from=begun,
                      optimizer=optax.set_to_zero())
  for name, array in first.trained.items():
    np.testing.assert_array_equal(run.trained[name], array)
  with pytest.raises(ValueError, match=r'to start from are .*prefix/keys .* but the method trains encoder/p'):
    toy_run.train(tmp_path / 'third', start_from=begun)


def test_a_run_that_stops_at_an_accuracy_stops_at_the_same_step_when_it_is_interrupted(tmp_path):
  # Over twelve examples, three steps: the steps before the interruption count.
  settings = {'stop': loop.Stop(0.0, 12), 'log_period': 1, 'saving': loop.Saving(1)}
  straight = toy_run.train(tmp_path / 'straight', **settings)
  assert straight.step == toy_run.START + 3
  toy_run.train(tmp_path / 'resumed', **settings, train_steps=toy_run.START + 2)
  assert toy_run.train(tmp_path / 'resumed', **settings).step == straight.step
  assert toy_run.train(tmp_path / 'resumed', **settings).step == straight.step  # it is finished
