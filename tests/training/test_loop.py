"""The training loop: what it changes, when it stops, which prompt is the best, and its output."""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_run
from toy_run import TASK

from prompt_tuning import prompts
from prompt_tuning.data.tasks import Mixture
from prompt_tuning.evaluation import saved
from prompt_tuning.training import loop, run_files
from prompt_tuning.training.evaluations import Evaluations, compare


def scripted(values):
  """Returns a metric that returns these values in turn, then repeats the last."""
  rest = iter(values)
  state = {}

  def metric(targets, predictions):
    state['value'] = next(rest, state.get('value'))
    return {'scripted': state['value']}

  return metric


def lines(folder, kind='train'):
  found = [json.loads(line) for line in open(f'{folder}/metrics.jsonl')]
  return [line for line in found if line['folder'] == kind]


@pytest.mark.slow
def test_a_bfloat16_model_tunes_and_its_loss_is_evaluated(causal, tmp_path):
  module = causal.module.clone(config=dataclasses.replace(causal.module.config, dtype=jnp.bfloat16))
  params = jax.tree.map(lambda array: array.astype(jnp.bfloat16), causal.params)
  run = toy_run.train(tmp_path, changes={'module': module, 'params': params}, packed=False, dropout_rate=0.0,
                      train_steps=toy_run.START + 12, evaluations={'examples': 0, 'period': 12})
  losses = [line['loss'] for line in lines(tmp_path)]
  assert losses[-1] < losses[0] and np.isfinite(run.metrics['turn/loss'])


def test_training_changes_the_prompt_and_no_frozen_number_and_says_nothing_when_quiet(tiny, tmp_path, capsys):
  before = jax.device_get(tiny.params)
  run = toy_run.train(tmp_path, evaluations={'examples': 0, 'loss_steps': 0})
  first = prompts.PromptTuning(prompts.Prompt(3)).initialise(jax.random.key(5), tiny)
  assert list(run.trained) == [prompts.PATH]
  assert (run.trained[prompts.PATH] != np.asarray(first['encoder']['prompt']['prompt']['prompt'])).all()
  jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(tiny.params))
  assert capsys.readouterr().err == ''
  # Nothing was evaluated, so the last prompt is the best.
  assert run.metrics == {} and run.best['step'] == 106
  np.testing.assert_array_equal(run.prompt.vectors, run.trained[prompts.PATH])


@pytest.mark.parametrize(('settings', 'message'), [
  ({'train_steps': 100}, r'train_steps=100 cannot be used: the model starts at step 100, .* Give 100 plus the number'),
  ({'microbatches': 3}, r'microbatches=3 cannot be used with batch_size=4. Choose a number that divides'),
  ({'changes': {'vocabulary': None}}, r'loaded without a vocabulary, so examples cannot be read. Give load_model'),
  ({'evaluations': {'split': 'test'}}, r"Task turn has no split 'test'. Choose one of train, validation"),
  ({'split': 'training'}, r"Task turn has no split 'training'"),
])
def test_what_cannot_work_is_an_error_before_anything_is_written(tmp_path, settings, message):
  with pytest.raises(ValueError, match=message):
    toy_run.train(tmp_path / 'run', **settings)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('make', [
  lambda: Evaluations(period=0), lambda: loop.Saving(period=0), lambda: loop.Saving(keep=0)])
def test_periods_must_be_above_zero(make):
  with pytest.raises(ValueError, match=r'at least 1'):
    make()


def test_a_loss_that_becomes_nan_stops_the_run_and_keeps_the_last_good_state(tmp_path, monkeypatch):
  monkeypatch.setattr('prompt_tuning.training.identity.digest', lambda *_: '')  # the examples change
  toy_run.train(tmp_path, train_steps=104)
  kept = run_files.read_newest(tmp_path)
  poisoned = [example | {'loss_weight': 3e38} for example in TASK.split('train')]
  task = dataclasses.replace(TASK, splits={**TASK.splits, 'train': poisoned})
  with pytest.raises(FloatingPointError, match=r'at step 105: loss (nan|inf).* last good state is .*checkpoint_104'):
    toy_run.train(tmp_path, task=task)
  step, arrays, metadata = run_files.read_newest(tmp_path)
  assert (step, metadata) == (104, kept[2])
  assert all(np.isfinite(array).all() for array in arrays.values())


def test_a_prompt_that_becomes_infinite_is_never_saved_though_the_loss_before_was_finite(tmp_path):
  with pytest.raises(FloatingPointError, match=r'at step 151: loss [\d.]+,.* trained tensors (inf|nan)'):
    toy_run.train(tmp_path, train_steps=160, saving=loop.Saving(1), evaluations={'examples': 0, 'loss_steps': 0})
  assert run_files.saved_steps(tmp_path) == [150]
  for name in ('last.safetensors', 'best.safetensors'):
    assert np.isfinite(saved.load_prompt(str(tmp_path / name)).vectors).all()


def test_the_best_prompt_is_kept_beside_the_last(tmp_path):
  judged = dataclasses.replace(TASK, metrics=(scripted([1.0, 3.0, 2.0, 3.0, 0.0, 0.0]),))
  run = toy_run.train(tmp_path, task=judged, evaluations={'period': 1}, saving=loop.Saving(1, keep=None))
  assert run.best['step'] == 102 and run.best['value'] == 3.0 and run.best['objective'] == 'turn/scripted'
  best, last = run.prompt, saved.load_prompt(str(tmp_path / 'last.safetensors'))
  assert best.about['step'] == 102 and best.about['best']['metrics']['turn/scripted'] == 3.0
  array = np.load(tmp_path / 'numpy_checkpoints/checkpoint_102/encoder.prompt.prompt.prompt')
  np.testing.assert_array_equal(best.vectors, array)
  np.testing.assert_array_equal(last.vectors, run.trained[prompts.PATH])
  assert (last.vectors != best.vectors).any()


def test_a_run_stops_early_when_nothing_has_improved_for_long_and_stays_stopped(tmp_path, capsys):
  judged = dataclasses.replace(TASK, metrics=(scripted([2.0, 5.0, 5.0, 4.0]),))
  settings = {'task': judged, 'train_steps': 150, 'evaluations': {'period': 1, 'patience': 2}}
  run = toy_run.train(tmp_path, quiet=False, **settings)
  assert run.step == 104 and run.best['step'] == 102
  assert run_files.saved_steps(tmp_path) == [104]
  assert 'Stopped early: turn/scripted has not improved in 2 evaluations; best 5 at step 102' in capsys.readouterr().err
  assert toy_run.train(tmp_path, **settings).step == 104


def test_the_tasks_of_a_mixture_are_judged_one_by_one(tmp_path):
  other = dataclasses.replace(TASK, name='other/turn')
  run = toy_run.train(tmp_path, task=Mixture('both', (TASK, other)), train_steps=103)
  assert sorted(run.metrics) == ['other_turn/accuracy', 'other_turn/loss', 'turn/accuracy', 'turn/loss']
  assert run.metrics['other_turn/loss'] == run.metrics['turn/loss']
  for name in ('turn', 'other_turn'):  # the last parts of their names are equal
    assert len((tmp_path / f'inference_eval/{name}-000103.jsonl').read_text().splitlines()) == 3


@pytest.mark.parametrize(('wanted', 'best', 'found'), [
  (None, None, ('a/accuracy', 30.0, True)),
  (None, 30.0, ('a/accuracy', 30.0, False)),
  ('loss', 3.5, ('a/loss', 3.0, True)),
  ('loss', 3.0, ('a/loss', 3.0, False)),
  ('bleu', 6.0, ('a/bleu', 7.0, True)),
  ('b/accuracy', 39.0, ('b/accuracy', 40.0, True)),
  ('b/accuracy', float('nan'), ('b/accuracy', 40.0, True)),
])
def test_the_best_step_is_told_by_the_objectives_mean_over_the_tasks(wanted, best, found):
  metrics = {'a/loss': 1.0, 'a/accuracy': 20.0, 'a/bleu': 7.0, 'b/loss': 5.0, 'b/accuracy': 40.0}
  assert compare(metrics, wanted, None if best is None else {'value': best}) == found


@pytest.mark.parametrize('best', [None, 1.0, float('nan')])
@pytest.mark.parametrize('name', ['loss', 'accuracy'])
def test_nan_is_never_the_best(name, best):
  metrics = {'a/loss': 1.0, 'a/accuracy': 1.0, f'b/{name}': float('nan')}
  assert compare(metrics, name, None if best is None else {'value': best})[2] is False


def test_a_run_whose_first_metric_is_nan_keeps_the_best_of_the_others(tmp_path, capsys):
  judged = dataclasses.replace(TASK, metrics=(scripted([float('nan'), 1.0, 2.0, float('nan')]),))
  run = toy_run.train(tmp_path / 'a', task=judged, train_steps=104, evaluations={'period': 1})
  assert (run.best['step'], run.best['value']) == (103, 2.0)
  never = dataclasses.replace(TASK, metrics=(scripted([float('nan')]),))
  run = toy_run.train(tmp_path / 'b', task=never, evaluations={'period': 1, 'patience': 2}, quiet=False)
  assert run.best is None and run.step == 102
  assert 'has not improved in 2 evaluations; it was never a number' in capsys.readouterr().err


def test_where_nothing_is_evaluated_no_split_for_it_is_needed(tmp_path):
  task = dataclasses.replace(TASK, splits={'train': TASK.split('train')})
  run = toy_run.train(tmp_path, task=task, train_steps=103, evaluations={'examples': 0, 'loss_steps': 0})
  assert (run.step, run.metrics) == (103, {})
  np.testing.assert_array_equal(run.prompt.vectors, run.trained[prompts.PATH])


def test_where_there_is_no_metric_the_loss_decides():
  assert compare({'a/loss': 1.0}, None, {'value': 2.0}) == ('a/loss', 1.0, True)


def test_an_unknown_objective_is_named_with_those_that_exist():
  with pytest.raises(ValueError, match=r"objective='acuracy' is not among the metrics.* a/loss, a/accuracy"):
    compare({'a/loss': 1.0, 'a/accuracy': 2.0}, 'acuracy', None)


def test_texts_that_are_too_long_are_counted_and_reported(tmp_path, capsys, caplog):
  long = [{'inputs': '2 3 4 5 6 7 8', 'targets': '5'}, {'inputs': '2', 'targets': '3 4 5 6 7 8'}]
  cut = dataclasses.replace(TASK, splits={'train': [*long, {'inputs': '2', 'targets': '3'}], 'validation': long})
  with caplog.at_level(logging.WARNING):
    toy_run.train(tmp_path, task=cut, train_steps=103, quiet=False)
  said = capsys.readouterr().err
  assert 'longer than' in said and 'were truncated. Increase lengths=' in said
  assert 'Evaluating turn cut 1 inputs and 1 targets of 2 examples' in caplog.text


def test_a_run_writes_its_figures_and_says_them_in_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
  toy_run.train(tmp_path, train_steps=105, log_period=2, saving=loop.Saving(100), quiet=False)
  said = capsys.readouterr().err
  assert f'Started at step 100 of 105: 36 trained parameters, 9,192 frozen, in {tmp_path}' in said
  assert 'step 105/105  loss ' in said and 'steps/s' in said and ' GB  ETA 0 s' in said
  assert 'step 103: turn/loss' in said
  assert [line['step'] for line in lines(tmp_path)] == [102, 103, 104, 105]  # 103 and 105 because of evaluations
  for line in lines(tmp_path):
    assert set(line) == {'step', 'folder', 'loss', 'cross_ent_loss', 'z_loss', 'token_accuracy', 'gradient_norm',
                         'trained_norm', 'learning_rate', 'steps_per_second', 'examples_per_second',
                         'tokens_per_second', 'peak_process_bytes'}
    assert line['peak_process_bytes'] > 10**7
    assert line['learning_rate'] == pytest.approx(0.3)
  assert [line['step'] for line in lines(tmp_path, 'inference_eval/turn')] == [103, 105]
  assert [line['step'] for line in lines(tmp_path, 'training_eval/turn')] == [103, 105]
  assert list((tmp_path / 'train').glob('events*')) and list((tmp_path / 'inference_eval/turn').glob('events*'))
