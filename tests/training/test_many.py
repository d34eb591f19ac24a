"""Many runs in one: each equals its run alone; ends, resumption and errors concern one member."""

import dataclasses
import json
import os

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run
from flax import linen as nn
from toy_run import START, TASK

from prompt_tuning import prompts
from prompt_tuning.data import metrics
from prompt_tuning.data.tasks import Task
from prompt_tuning.devices.preemption import Preempted
from prompt_tuning.evaluation import saved
from prompt_tuning.losses import Loss, pairwise_cosine
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.training import halving, loop, many, run_files
from prompt_tuning.training.evaluations import Evaluations
from prompt_tuning.training.members import Member
from prompt_tuning.training.optimizers import Adafactor
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.scales import Scales

OTHER = Task('copy', {name: [{'inputs': row['inputs'], 'targets': row['inputs']} for row in TASK.splits[name]]
                      for name in ('train', 'validation')}, (metrics.accuracy,))
UNSEEN = Evaluations(period=1000, loss_steps=0, examples=0)
MEAN = Loss(normalizing_factor='tokens')


def frozen(step: int = START) -> LanguageModel:
  return dataclasses.replace(toy_run.model(), path='models/toy', step=step)


def member(folder, name, *, length=3, steps=20, **settings) -> Member:
  given = {'method': prompts.PromptTuning(prompts.Prompt(length)), 'task': TASK,
           'lengths': {'inputs': 6, 'targets': 5}, 'train_steps': START + steps, 'optimizer': optax.sgd(0.3),
           'batch_size': 4, 'evaluations': UNSEEN} | settings
  return Member(name=name, model_dir=str(folder / name), **given)


def together(folder, members, **settings):
  given = {'model': frozen(), 'members': members, 'model_dir': str(folder), 'loss': MEAN, 'quiet': True,
           'log_period': 5} | settings
  return many.train_many(**given)


def alone(folder, each: Member, **settings):
  given = {field.name: getattr(each, field.name) for field in dataclasses.fields(each) if field.name != 'name'}
  return loop.train(**{**given, 'model': frozen(), 'loss': MEAN, 'quiet': True, 'log_period': 5,
                       'model_dir': str(folder / f'alone {each.name}'), **settings})


def losses(run, kind='train'):
  lines = [json.loads(line) for line in open(os.path.join(run.folder, 'metrics.jsonl'))]
  return {line['step']: line['loss'] for line in lines if line['folder'] == kind}


def assert_equal_tensors(found, wanted, tolerance):
  assert found.step == wanted.step
  for name, array in wanted.trained.items():
    np.testing.assert_allclose(found.trained[name], array, atol=tolerance)


def assert_equal_runs(found, wanted, tolerance):
  assert_equal_tensors(found, wanted, tolerance)
  assert losses(found) == pytest.approx(losses(wanted), abs=tolerance)


def test_each_of_several_prompts_equals_its_run_alone_whatever_its_length_rate_and_task(tmp_path):
  members = [member(tmp_path, 'a', seed=1),
             member(tmp_path, 'b', length=5, seed=2, optimizer=optax.sgd(0.1), task=OTHER, batch_size=2)]
  runs = together(tmp_path, members)
  assert [run.ended for run in runs] == ['finished'] * 2
  for each, run in zip(members, runs, strict=True):
    assert_equal_runs(run, alone(tmp_path, each), 1e-5)


@pytest.mark.slow
def test_scales_trained_together_equal_each_run_alone(tmp_path):
  members = [member(tmp_path, f'{i}', method=Scales(), steps=8, seed=i, optimizer=optax.sgd(0.2 * i)) for i in (1, 2)]
  for each, run in zip(members, together(tmp_path, members), strict=True):
    assert_equal_runs(run, alone(tmp_path, each), 1e-5)
    assert all(np.abs(array - 1).max() > 1e-4 for array in run.trained.values())


@pytest.mark.slow
def test_a_members_folder_is_that_of_a_run_which_has_ended_and_can_be_extended(tmp_path, capsys):
  members = [member(tmp_path, name, steps=4, seed=i) for i, name in enumerate('ab')]
  together(tmp_path, members)
  again = alone(tmp_path, members[0], model_dir=members[0].model_dir, quiet=False)
  assert again.step == START + 4 and 'has ended at step 104' in capsys.readouterr().err
  longer = alone(tmp_path, members[0], model_dir=members[0].model_dir, train_steps=START + 6)
  assert_equal_tensors(longer, alone(tmp_path, members[0], train_steps=START + 6), 1e-5)
  assert saved.load_trained(members[1].model_dir).tensors
  assert [run.step for run in together(tmp_path, members)] == [START + 4] * 2  # nothing more is trained


@pytest.mark.slow
def test_a_member_that_diverges_ends_alone(tmp_path, capsys):
  bursts = Adafactor(lambda step: jnp.where(step < START + 3, 0.3, jnp.inf))
  members = [member(tmp_path, 'good', steps=8), member(tmp_path, 'bad', steps=8, optimizer=bursts)]
  good, bad = together(tmp_path, members, quiet=False, log_period=2)
  assert_equal_runs(good, alone(tmp_path, members[0], log_period=2), 1e-5)
  assert good.ended == 'finished' and 'diverged at step 104' in bad.ended
  assert 'bad: diverged at step 104' in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_and_resumed_sweep_ends_with_the_same_bits(tmp_path, monkeypatch):
  def members(folder):
    return [member(folder, f'{i}', seed=i, steps=8, length=3, optimizer=Adafactor(0.1 * i),
                   evaluations=Evaluations(period=3, loss_steps=1, examples=0)) for i in range(4)]

  def run(name):
    return together(tmp_path / name, members(tmp_path / name), halving=2, saving=loop.Saving(1))

  whole = run('whole')
  before, calls = run_files.save_together, []

  def killed(folder, step, *arguments):
    before(folder, step, *arguments)
    calls.append(step)
    if len(calls) == 3:
      raise KeyError('killed')

  monkeypatch.setattr(run_files, 'save_together', killed)
  with pytest.raises(KeyError):
    run('killed')
  resumed = run('killed')
  assert [run.ended for run in resumed] == [run.ended for run in whole]
  assert sum('halving' in run.ended for run in whole) == 3
  for found, wanted in zip(resumed, whole, strict=True):
    assert found.best == wanted.best and losses(found, 'training_eval/turn') == losses(wanted, 'training_eval/turn')
    for name, array in wanted.trained.items():
      np.testing.assert_array_equal(found.trained[name], array)


@pytest.mark.slow
def test_halving_ends_the_weaker_members_and_leaves_the_others_as_they_are(tmp_path):
  chosen = Evaluations(period=100, loss_steps=1, examples=0)
  members = [member(tmp_path, f'{rate}', optimizer=optax.sgd(rate), steps=9, evaluations=chosen)
             for rate in (0.001, 1.0, 0.1)]
  runs = together(tmp_path, members, halving=3)
  best = min(range(3), key=lambda i: alone(tmp_path, members[i]).metrics['turn/loss'])
  assert [run.ended == 'finished' for run in runs] == [i == best for i in range(3)]
  assert runs[(best + 1) % 3].ended == 'ended by halving at step 104' and runs[(best + 1) % 3].step == 104
  assert_equal_tensors(runs[best], alone(tmp_path, members[best], model_dir=str(tmp_path / 'best')), 1e-5)


def test_rungs_divide_the_steps_and_leave_one():
  assert halving.rungs(27, 3, 100) == {25: 9, 50: 3, 75: 1}
  assert halving.rungs(8, 2, 40) == {10: 4, 20: 2, 30: 1}
  assert '8 runs, 4 after step 10, 2 after step 20, 1 after step 30: 47% of the rows' in halving.planned(
    8, halving.rungs(8, 2, 40), 40)
  assert halving.ranked([float('nan'), 3.0, 1.0, 3.0], lower=False) == [1, 3, 2, 0]


def unlike(folder, **settings):
  return [member(folder, 'a'), member(folder, 'b', **settings)]


@pytest.mark.parametrize(('changes', 'message'), [
  ({'method': Prefix(3)}, 'a and b cannot .* the method is PromptTuning in the first and Prefix in the second'),
  ({'method': prompts.PromptTuning(prompts.Prompt(3), visibility=Visibility(input=False))}, 'the visibility of the'),
  ({'method': LowRank()}, 'b cannot share a run: its method LowRank changes .* a parameter'),
  ({'seed': -1}, 'seed=-1 cannot be used'),
  ({'train_steps': START}, 'train_steps=100 cannot be used: the model starts at step 100'),
], ids=lambda each: None)
def test_members_that_cannot_share_a_run_are_named_with_the_reason(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    together(tmp_path, unlike(tmp_path, **changes))


def test_what_all_members_share_is_checked(tmp_path):
  two = unlike(tmp_path)
  with pytest.raises(ValueError, match='The loss pairwise_cosine compares all rows'):
    together(tmp_path, two, loss=Loss(function=pairwise_cosine, of='hidden'))
  with pytest.raises(ValueError, match="name='a' is that of 2 runs"):
    together(tmp_path, [two[0], two[0]])
  with pytest.raises(ValueError, match='halving=2 cannot be used: a is not evaluated'):
    together(tmp_path, two, halving=2)
  with pytest.raises(ValueError, match=r'With dropout_rate=0\.1, runs can only be trained together'):
    module = frozen().module
    module = module.clone(config=dataclasses.replace(module.config, dropout_rate=0.1))
    together(tmp_path, unlike(tmp_path, lengths={'inputs': 5, 'targets': 5}),
             model=dataclasses.replace(frozen(), module=module))


@pytest.mark.slow
def test_a_folder_of_other_runs_is_refused(tmp_path):
  two = [member(tmp_path, name, steps=1) for name in 'ab']
  together(tmp_path, two)
  with pytest.raises(ValueError, match='holds other runs: now it is asked for without b and with c'):
    together(tmp_path, [two[0], member(tmp_path, 'c', steps=1)])
  with pytest.raises(ValueError, match='holds another run'):
    alone(tmp_path, two[0], model_dir=str(tmp_path))
  with pytest.raises(ValueError, match='a holds another run'):
    together(tmp_path / 'elsewhere', [dataclasses.replace(two[0], seed=1)])


@pytest.mark.slow
def test_a_signal_saves_all_members(tmp_path, monkeypatch):
  members = [member(tmp_path, name, steps=6, seed=i) for i, name in enumerate('ab')]
  from prompt_tuning.devices.preemption import Preemption

  monkeypatch.setattr(Preemption, 'told', lambda self: True)
  with pytest.raises(Preempted):
    together(tmp_path, members)
  monkeypatch.undo()
  for each, run in zip(members, together(tmp_path, members), strict=True):
    assert_equal_tensors(run, alone(tmp_path, each), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['prefixes of T5', 'prompts before a causal model', 'prefixes of a causal model',
                                  'packed rows', 'dropout', 'at once', 'scales of T5',
                                  'scales of a causal model'])
def test_other_members_equal_their_runs_alone(tmp_path, causal, name):
  model, changes, settings = frozen(), {}, {}
  if 'causal' in name:
    model = dataclasses.replace(causal, path='models/causal', step=START)
  if 'dropout' in name:
    module = model.module.clone(config=dataclasses.replace(model.module.config, dropout_rate=0.3))
    model = dataclasses.replace(model, module=module)
  if 'packed' in name:
    changes = {'packed': True}
  if name in ('at once', 'prompts before a causal model'):
    changes = {'steps': 8}  # rounding may differ, by processor, and grows by a third with each step
  if 'at once' in name:
    settings = {'at_once': 3}
  lengths = (3, 3, 3) if 'dropout' in name else (3, 5, 2)
  # From the small values of the default, what rounding differs by grows by half with each step; from these it does not.
  make = {'scales': lambda length: Scales(), 'prefixes': lambda length: Prefix(length, init=nn.initializers.normal(1.0))
          }.get(name.split()[0], lambda length: prompts.PromptTuning(prompts.Prompt(length)))
  methods = [make(length) for length in lengths]
  members = [member(tmp_path, f'{i}', method=method, seed=i, **changes) for i, method in enumerate(methods)]
  for each, run in zip(members, together(tmp_path, members, model=model, **settings), strict=True):
    assert_equal_runs(run, alone(tmp_path, each, model=model), 1e-5)


@pytest.mark.slow
def test_with_the_default_optimizer_a_member_is_as_near_as_two_microbatches_are(tmp_path):
  members = [member(tmp_path, f'{i}', seed=i, optimizer=Adafactor(0.3)) for i in range(8)]
  for each, run in zip(members, together(tmp_path, members), strict=True):
    one = alone(tmp_path, each)
    two = alone(tmp_path, each, microbatches=2, model_dir=str(tmp_path / f'two {each.name}'))
    far = lambda a, b: max(np.abs(a.trained[name] - b.trained[name]).max() for name in a.trained)
    assert far(run, one) <= max(far(one, two), 1e-6)


@pytest.mark.slow
def test_halving_finds_the_best_of_eight_at_half_the_rows(tmp_path):
  chosen = Evaluations(period=100, loss_steps=3, examples=0, split='train')
  rates = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 0.003, 3.0)
  of = lambda folder: [member(folder, f'{rate}', steps=40, optimizer=optax.sgd(rate), evaluations=chosen)
                       for rate in rates]
  whole = together(tmp_path / 'whole', of(tmp_path / 'whole'))
  halved = together(tmp_path / 'halved', of(tmp_path / 'halved'), halving=2)
  best = min(range(8), key=lambda i: whole[i].metrics.get('turn/loss', np.inf))
  assert [i for i in range(8) if halved[i].ended == 'finished'] == [best]
  assert sum(run.step - START for run in halved) <= 8 * 40 / 2
