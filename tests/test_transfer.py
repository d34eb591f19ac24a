"""Sources for another task: the right one among the shipped prompts; `prompt-tuning transfer` starts a run from it."""

import pathlib

import numpy as np
import pytest
import toy_run

import prompt_tuning as pt
from prompt_tuning.checkpoints.state import read_state
from prompt_tuning.data import integers
from prompt_tuning.data.tasks import Task
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.models.loading import save_model
from prompt_tuning.programs import command
from prompt_tuning.rows import layouts

SHIPPED = pathlib.Path(pt.__file__).parent / 'pretrained_prompts/t5_integers'
LENGTHS = {'inputs': 6, 'targets': 6}


def prompt(seed):
  return np.random.default_rng(seed).normal(size=(3, 12)).astype(np.float32)


@pytest.fixture(scope='module')
def shipped():
  return pt.load_model('t5_integers'), {path.stem: pt.load_prompt(str(path)) for path in sorted(SHIPPED.glob('*.npy'))}


@pytest.mark.parametrize(('task', 'source'), [
  ('SortAscending+SortDescending', 'SortDescending'),
  pytest.param('SortDescending+SortAscending', 'SortAscending', marks=pytest.mark.slow)])
def test_the_right_source_of_a_composed_task_is_found_among_seven(shipped, task, source):
  model, prompts = shipped
  ranked = pt.rank_sources(model, integers.task(task), prompts, num_examples=32,
                           lengths={'inputs': 8, 'targets': 8})
  assert len(ranked) == 8 and ranked[0].name == source
  assert ranked[0].token_accuracy > 0.95 > ranked[-1].token_accuracy
  assert '' in [each.name for each in ranked]  # the model alone is among them


def test_sources_have_the_loss_and_the_similarity_of_the_target(tiny, caplog):
  sources = {'a': prompt(0), 'b': SavedPrompt(prompt(1), layouts.after_eos), 'narrow': np.ones((3, 11), np.float32),
             'prefix': Trained({f'encoder/prefix/{name}': np.ones((2, 4, 3, 5), np.float32)
                                for name in ('keys', 'values')})}
  found = pt.rank_sources(tiny, toy_run.TASK, sources, target=2 * prompt(0), num_examples=10, batch_size=5,
                          lengths=LENGTHS)
  assert sorted(each.loss for each in found) == [each.loss for each in found]
  by_name = {each.name: each for each in found}
  assert set(by_name) == {'', 'a', 'b', 'prefix'} and by_name['prefix'].similarity is None
  assert by_name['a'].similarity == pytest.approx(1, abs=1e-6)
  assert 'Left out: narrow: The prompt has shape (3, 11)' in caplog.text
  rows = toy_run.TASK.split('train')
  scores = tiny.score([row['inputs'] for row in rows], [row['targets'] for row in rows], sources['a'])
  tokens = sum(len(row['targets'].split()) + 1 for row in rows)
  assert by_name['a'].loss == pytest.approx(-scores.sum() / tokens, abs=1e-5)
  alike = pt.rank_sources(tiny, toy_run.TASK, {'a': sources['a']}, target=prompt(0), by='similarity', num_examples=10,
                          batch_size=5, lengths=LENGTHS)
  assert [each.name for each in alike] == ['a', '']


def test_what_cannot_be_ranked_is_said(tiny):
  for settings, message in (
      ({'sources': {}}, 'None of 0 sources fits the model'),
      ({'by': 'size'}, "by='size' cannot be used: expected loss, token_accuracy, or similarity with target="),
      ({'by': 'similarity'}, "by='similarity' cannot be used"),
      ({'num_examples': 0}, 'num_examples=0 cannot be used'),
      ({'target': Trained({'encoder/layers_0/mlp/wo/kernel': np.zeros((14, 12))})}, 'has no vectors among')):
    with pytest.raises(ValueError, match=message):
      pt.rank_sources(tiny, Task('turn', toy_run.TASK.splits, toy_run.TASK.metrics),
                      **{'sources': {'a': prompt(0)}, 'lengths': LENGTHS, **settings})


@pytest.fixture
def library(tiny, tmp_path, monkeypatch):
  """A folder with a toy model, its rows, and prompts for it, and one of another width."""
  monkeypatch.chdir(tmp_path)
  save_model(tiny, 'model')
  (tmp_path / 'runs').mkdir()
  for seed in range(3):
    SavedPrompt(prompt(seed), layouts.after_eos).save(f'runs/{seed}.safetensors')
  np.save('runs/narrow.npy', np.ones((3, 11), np.float32))
  (tmp_path / 'rows.tsv').write_text('inputs\ttargets\n' + '\n'.join(f'{i} {i + 1}\t{i}' for i in range(2, 14)))
  return tmp_path


RUN = ['--library', 'runs', '--model', 'model', '--data', 'rows.tsv', '--vocabulary', 'pass_through',
       '--vocabulary.size', '29', '--batch_size', '4', '--max_input_length', '6', '--max_target_length', '4']
TRAIN = ['--output', 'runs/new', '--steps', '1', '--evaluation_examples', '0', '--compare', 'false']


def test_the_command_ranks_and_starts_a_run_from_a_mean_of_the_best(library, capsys, caplog):
  assert command.main(['transfer', *RUN, '--examples', '8', '--mean', '2', *TRAIN]) == 0
  rows = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line[:3].strip().isdigit()]
  order = [name for name in rows if name != 'alone)']
  assert len(rows) == 4 and sorted(order) == ['0', '1', '2']
  assert 'Left out: narrow: The prompt has shape (3, 11)' in caplog.text
  start, about = read_state('runs/new.start.safetensors')
  np.testing.assert_allclose(start['encoder/prompt/prompt/prompt'], np.mean(
    [pt.load_prompt(f'runs/{name}.safetensors').vectors for name in order[:2]], axis=0), atol=1e-6)
  assert about['mean_of'] == order[:2]
  trained = pt.load_prompt('runs/new')
  assert trained.placement is layouts.after_eos and len(trained.vectors) == 3
  assert np.abs(trained.vectors - start['encoder/prompt/prompt/prompt']).max() < 0.5  # one step of 0.3


@pytest.mark.parametrize(('arguments', 'message'), [
  (['--library', 'none'], '--library=none is not a folder'),
  (['--by', 'similarity'], '--by=similarity needs a prompt to compare with'),
  (['--mean', '0'], '--mean=0 cannot be used'),
  ([*TRAIN, '--mean', '4'], '--mean=4 cannot be used: only 3 of 3 sources have tensors of the shape of the best'),
  (['--mean', '2'], '--mean=2 is for a start, but --output is not given'),
  (['--stps', '3'], 'There is no flag --stps. Did you mean --steps'),
  ([*TRAIN, '--method', 'prefix'], 'No source was trained by the method prefix')])
def test_the_command_says_what_to_change(library, capsys, arguments, message):
  given = RUN[2:] if '--library' in arguments else RUN
  assert command.main(['transfer', *given, '--examples', '4', *arguments]) == 2
  assert message in capsys.readouterr().err
