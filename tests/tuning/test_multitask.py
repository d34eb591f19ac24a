"""Multitask prompts: each row uses its task's prompt in training, evaluation and files."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
import toy_run

import prompt_tuning as pt
from prompt_tuning.checkpoints.state import write_state
from prompt_tuning.data.pipeline import TrainBatches
from prompt_tuning.evaluation.saved import load_trained
from prompt_tuning.losses import Loss
from prompt_tuning.models.compiled import hidden_states
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.training import run_files
from prompt_tuning.tuning.multitask import MultitaskPrompt
from prompt_tuning.tuning.prompt import PATH, Prompt, PromptTuning

METHOD = MultitaskPrompt(Prompt(3), task_rank=2, tasks=('sum', 'turn'))
TURN = toy_run.TASK
SUM = pt.Task('sum', {split: [{**each, 'targets': str(4 + i)} for i, each in enumerate(rows)]
                      for split, rows in TURN.splits.items()}, TURN.metrics)
BOTH = pt.Mixture('both', (SUM, TURN), (1.0, 2.0))


def moved(trained, seed=0):
  random = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: leaf + random.normal(size=leaf.shape).astype(np.float32), trained)


@pytest.fixture
def phi(tiny):
  return moved(METHOD.initialise(jax.random.key(0), tiny))


def test_a_tasks_prompt_is_the_papers_equation_and_starts_as_the_shared_prompt(tiny, phi):
  found = METHOD.prompts(phi, tiny)
  own = {name.rpartition('/')[2]: np.float64(array) for name, array in METHOD.export(phi, tiny).items()}
  assert list(found) == ['sum', 'turn']
  for i, name in enumerate(found):
    np.testing.assert_allclose(found[name][PATH], own['shared'] * (own['columns'][i] @ own['rows'][i]), rtol=1e-4)
  start = METHOD.initialise(jax.random.key(0), tiny)
  shared = PromptTuning(Prompt(3)).initialise(jax.random.key(0), tiny)['encoder']['prompt']['prompt']['prompt']
  for tensors in METHOD.prompts(start, tiny).values():
    np.testing.assert_allclose(tensors[PATH], shared, rtol=1e-6)


@pytest.mark.parametrize(('kind', 'packed', 'isolated'), [
  ('tiny', False, False), ('tiny', True, True), ('causal', False, False), ('causal', True, False)])
def test_each_example_of_a_batch_reads_its_tasks_prompt_also_if_they_share_a_row(kind, packed, isolated, request):
  model = request.getfixturevalue(kind)
  method = dataclasses.replace(METHOD, visibility=Visibility(input=not isolated))
  trained = moved(method.initialise(jax.random.key(0), model))
  batch = next(TrainBatches(BOTH, model.vocabulary, model.layout(method.layout()), packed=packed, batch_size=5,
                            lengths={'inputs': 9, 'targets': 9}, prompts=method.tasks))
  ids = np.take_along_axis(batch['prompt_ids'], np.maximum(batch['decoder']['segments'] - 1, 0), axis=1)
  assert packed == any(len(set(row[weights > 0])) > 1 for row, weights in zip(ids, batch['decoder']['loss_weights'],
                                                                              strict=True))

  @jax.jit
  def loss(conditioning, weights):
    rows = {**batch, 'decoder': {**batch['decoder'], 'loss_weights': weights}}
    x, project = hidden_states(model.module, model.params, rows, conditioning)
    return Loss()(x, rows, project)[0]

  weights = batch['decoder']['loss_weights']
  alone = sum(loss(method.condition_of(name, trained, model), weights * (ids == i))
              for i, name in enumerate(method.tasks))
  whole, gradient = jax.value_and_grad(lambda trained: loss(method.condition(trained, model), weights))(trained)
  np.testing.assert_allclose(whole, alone, rtol=1e-4)
  assert all((np.asarray(leaf) != 0).all() for leaf in jax.tree.leaves(gradient))


def test_a_run_evaluates_each_task_with_its_prompt_which_works_alone(tiny, tmp_path):
  run = toy_run.train(tmp_path, method=MultitaskPrompt(Prompt(2)), task=BOTH, optimizer=optax.sgd(0.1), packed=False,
                      train_steps=101)
  assert run.metrics.keys() == {'sum/loss', 'sum/accuracy', 'turn/loss', 'turn/accuracy'}
  whole = load_trained(str(tmp_path))
  assert whole.tasks() == ('sum', 'turn')
  assert pt.evaluate(tiny, BOTH, whole).keys() == {'sum/accuracy', 'turn/accuracy'}
  rows = [[3, 4, 1], [5, 1]]
  for name in ('sum', 'turn'):
    alone = load_trained(str(tmp_path / f'prompts/{name}.safetensors'))
    given = whole.conditioning(tiny, task=name).encoder.prompt
    np.testing.assert_allclose(alone.conditioning(tiny).encoder.prompt, given, rtol=1e-6)
    assert np.isfinite(tiny.score(rows, rows, alone)).all()
  for use in (lambda: tiny.score(rows, rows, whole), lambda: pt.evaluate(tiny, toy_run.TASK.splits['train'], whole)):
    with pytest.raises(ValueError, match=r'prompts of the tasks sum, turn, but .* prompts/NAME\.safetensors'):
      use()
  with pytest.raises(ValueError, match='The task other cannot be evaluated: the run trains prompts of the tasks sum'):
    toy_run.train(tmp_path / 'b', method=MultitaskPrompt(Prompt(2)), task=BOTH,
                  evaluations={'task': dataclasses.replace(TURN, name='other')})


def test_a_new_task_starts_from_the_shared_prompt_and_a_known_one_from_its_factors(tiny, phi, tmp_path):
  write_state(tmp_path / 'both.safetensors', METHOD.export(phi, tiny), json.loads(json.dumps(METHOD.describe())))
  given = load_trained(str(tmp_path / 'both.safetensors'))
  method = METHOD.of_tasks(['new', 'turn'])
  own = method.initialise(jax.random.key(3), tiny)
  first = run_files.started_from(given, method, own, tiny)
  shared = phi['encoder']['prompt']['multitask']['shared']
  found = method.prompts(first, tiny)
  np.testing.assert_allclose(found['new'][PATH], shared, rtol=1e-6)
  np.testing.assert_array_equal(found['turn'][PATH], METHOD.prompts(phi, tiny)['turn'][PATH])
  plain = pt.SavedPrompt(np.asarray(shared)).as_trained()
  for tensors in method.prompts(run_files.started_from(plain, method, own, tiny), tiny).values():
    np.testing.assert_allclose(tensors[PATH], shared, rtol=1e-6)
  with pytest.raises(ValueError, match=r'the task turn have task_rank=2, but the run has task_rank=1'):
    other = dataclasses.replace(method, task_rank=1)
    run_files.started_from(given, other, other.initialise(jax.random.key(3), tiny), tiny)


def test_a_damaged_file_and_tasks_of_one_name_are_refused(tiny, phi):
  tensors = dict(METHOD.export(phi, tiny))
  tensors['encoder/prompt/multitask/rows'] = np.zeros((3, 2, 12), np.float32)
  with pytest.raises(ValueError, match=r'holds columns \(2, 3, 2\), rows \(3, 2, 12\).* Save it again'):
    MultitaskPrompt.read(tensors, {})
  with pytest.raises(ValueError, match="Two tasks have the name 'a'"):
    METHOD.of_tasks(['a', 'a'])
  with pytest.raises(ValueError, match='has no tasks'):
    MultitaskPrompt(Prompt(2)).initialise(jax.random.key(0), tiny)
