"""The Python API as shown in the README: tune, evaluate, save, load, predict."""

import json
import pathlib

import jax
import numpy as np
import pytest
import toy_run

import prompt_tuning as pt
from prompt_tuning import prompts
from prompt_tuning.api import as_task, as_trained
from prompt_tuning.checkpoints.peft import SEQ_2_SEQ, write_adapter
from prompt_tuning.data.integers import Draws
from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.evaluation import saved
from prompt_tuning.files import progress
from prompt_tuning.rows import layouts
from prompt_tuning.training.evaluations import Evaluations
from prompt_tuning.training.optimizers import Adafactor

PAIRS = [('7 8 9', '9 8 7'), ('3 4', '4 3'), ('10', '10'), ('5 6 7', '7 6 5')]
QUICK = {'steps': 4, 'batch_size': 2, 'prompt_length': 3, 'quiet': True}


@pytest.fixture(scope='module')
def run(tiny, tmp_path_factory):
  """A run on pairs, in a separate folder."""
  return pt.tune(tiny, PAIRS, model_dir=str(tmp_path_factory.mktemp('run')), **QUICK)


def test_tuning_on_pairs_gives_a_prompt_that_starts_from_the_embedding(tiny, run):
  assert run.step == 4 and run.prompt.vectors.shape == (3, 12)
  assert set(run.metrics) == {'examples/loss', 'examples/accuracy'}
  fresh = prompts.from_sample_of_embeddings(tiny.embeddings(), 29)
  first = prompts.PromptTuning(prompts.Prompt(3, fresh)).initialise(jax.random.key(0), tiny)
  difference = np.abs(run.trained[prompts.PATH] - np.asarray(first['encoder']['prompt']['prompt']['prompt']))
  assert 0 < difference.max() < 4 * 0.3  # four steps of at most the learning rate


def test_dicts_ids_and_files_are_the_same_examples(tiny, run, tmp_path):
  ids = [{'inputs': np.array([int(i) for i in inputs.split()]), 'targets': [int(i) for i in targets.split()]}
         for inputs, targets in PAIRS]
  path = tmp_path / 'pairs.jsonl'
  path.write_text('\n'.join(json.dumps({'inputs': inputs, 'targets': targets}) for inputs, targets in PAIRS))
  from_ids = pt.tune(tiny, ids, model_dir=str(tmp_path / 'ids'), **QUICK)
  np.testing.assert_array_equal(from_ids.trained[prompts.PATH], run.trained[prompts.PATH])
  # No line is left for validation: the run is evaluated on its training examples.
  file = pt.FileTask(str(path), name='examples', validation=0.0)
  from_file = pt.tune(tiny, file, model_dir=str(tmp_path / 'file'), **QUICK)
  np.testing.assert_array_equal(from_file.trained[prompts.PATH], run.trained[prompts.PATH])


def test_a_saved_prompt_answers_as_the_run_does(tiny, run, tmp_path):
  run.prompt.save(str(tmp_path / 'mine.safetensors'))
  texts = [inputs for inputs, _ in PAIRS]
  wanted = tiny.predict(texts, run.prompt, max_length=4)
  assert tiny.predict(texts, pt.load_prompt(str(tmp_path / 'mine.safetensors')), max_length=4) == wanted
  assert tiny.predict(texts, pt.load_prompt(run.folder), max_length=4) == wanted
  assert tiny.predict(texts, max_length=4) != wanted


def test_evaluate_takes_a_prompt_in_every_form(tiny, run, tmp_path):
  run.prompt.save(str(tmp_path / 'a.npy'))
  write_adapter(str(tmp_path / 'peft'), run.prompt.as_trained().tensors, task_type=SEQ_2_SEQ)
  trained = saved.load_trained(run.folder)
  forms = (run, run.folder, pathlib.Path(run.folder), str(tmp_path / 'a.npy'), str(tmp_path / 'peft'), run.prompt,
           np.asarray(run.prompt.vectors), np.asarray(run.prompt.vectors).tolist(), trained)
  for form in forms:
    np.testing.assert_array_equal(as_trained(form, tiny).tensors[prompts.PATH], trained.tensors[prompts.PATH])
  assert set(pt.evaluate(tiny, PAIRS, run.folder, batch_size=2)) == {'accuracy'}
  assert pt.evaluate(tiny, PAIRS) == {'accuracy': 0.0}
  for wrong in ({'a': 1}, 3, [1.0, 2.0], object()):
    with pytest.raises(ValueError, match=r'The prompt is of type \w+, expected an array \[P, 12\]'):
      pt.evaluate(tiny, PAIRS, wrong)


def test_predict_says_how_a_path_becomes_a_prompt(tiny, run):
  with pytest.raises(ValueError, match=r'is a path, expected trained tensors. Give pt.load_prompt\(path\), or pt'):
    tiny.predict(['3'], run.folder)
  with pytest.raises(ValueError, match=r'A prompt is of type Run.* That of a run is `run.prompt`'):
    tiny.predict(['3'], run)


def test_ten_rows_or_more_hold_out_a_tenth_as_a_file_of_them_does(tiny, tmp_path):
  rows = [{'inputs': f'{i % 9 + 2}', 'targets': f'{i % 7 + 2}', 'id': i} for i in range(40)]
  (tmp_path / 'a.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  listed, file = as_task(rows, 'train', tiny, held_out=0.1), pt.FileTask(str(tmp_path / 'a.jsonl'))
  for split in ('train', 'validation'):
    assert listed.split(split) == file.split(split)
  assert list(as_task(PAIRS, 'train', tiny, held_out=0.1).splits) == ['train']
  assert list(as_task(rows, 'validation', tiny).splits) == ['validation']
  splits = as_task({'train': rows, 'test': PAIRS}, 'train', tiny)
  assert [len(splits.split(name)) for name in ('train', 'test')] == [40, 4]


def test_figures_of_training_rows_say_so(tiny, tmp_path, capsys):
  pt.tune(tiny, PAIRS, model_dir=str(tmp_path / 'a'), **QUICK | {'quiet': False})
  assert 'step 4 (training rows): examples/loss' in capsys.readouterr().err
  pt.tune(tiny, PAIRS, validation=PAIRS[:1], model_dir=str(tmp_path / 'b'), **QUICK | {'quiet': False})
  assert 'step 4: examples/loss' in capsys.readouterr().err


def test_rows_have_no_splits_to_evaluate(tiny):
  assert pt.evaluate(tiny, {'test': PAIRS}, split='test', quiet=True) == pt.evaluate(tiny, PAIRS, quiet=True)
  with pytest.raises(ValueError, match=r"split='tset' cannot be used: the examples are rows"):
    pt.evaluate(tiny, PAIRS, split='tset')
  with pytest.raises(ValueError, match=r"no split 'tset'. Choose one of test"):
    pt.evaluate(tiny, {'test': PAIRS}, split='tset')


def test_evaluate_shows_how_far_it_is_unless_it_is_quiet(tiny, monkeypatch, capsys):
  monkeypatch.setattr(progress, '_BETWEEN_LINES', -1)
  pt.evaluate(tiny, PAIRS, batch_size=2, quiet=True)
  assert capsys.readouterr().err == ''
  pt.evaluate(tiny, PAIRS, batch_size=2)
  assert f'{len(PAIRS)}/{len(PAIRS)} examples' in capsys.readouterr().err


def test_evaluate_names_the_tasks_of_a_mixture(tiny):
  other = Task('other', toy_run.TASK.splits, toy_run.TASK.metrics)
  assert set(pt.evaluate(tiny, Mixture('both', (toy_run.TASK, other)))) == {'turn/accuracy', 'other/accuracy'}


def test_a_run_in_the_same_folder_is_gone_on_with_and_settings_reach_the_loop(tiny, run):
  again = pt.tune(tiny, PAIRS, model_dir=run.folder, **QUICK)
  np.testing.assert_array_equal(again.trained[prompts.PATH], run.trained[prompts.PATH])
  with pytest.raises(ValueError, match=r'holds another run \(batch_size: 2 there, 4 here'):
    pt.tune(tiny, PAIRS, model_dir=run.folder, **QUICK | {'batch_size': 4})


def test_another_method_and_validation_examples_can_be_given(tiny, tmp_path):
  method = pt.PromptTuning(pt.Prompt(3), layouts.after_eos)
  run = pt.tune(tiny, PAIRS, method=method, validation=PAIRS[:1], model_dir=str(tmp_path),
                **QUICK | {'prompt_length': None})
  assert run.prompt.placement is layouts.after_eos
  assert run.prompt.about['best']['objective'] == 'examples/accuracy'
  assert len((tmp_path / 'inference_eval/examples-000004.jsonl').read_text().splitlines()) == 1


@pytest.mark.parametrize(('examples', 'message'), [
  ([], r'The list of examples is empty. Give at least one'),
  ('SortDescnding', r"There is no task 'SortDescnding'. Did you mean SortDescending"),
  ([{'inputs': '3'}], r"examples\[0\]: there is no column 'targets'; found inputs"),
  (['3 4', '5 6'], r"Example 0 is a text: '3 4'; expected a pair"),
  ([('3', None)], r"examples\[0\]: column 'targets' is null"),
  ([('3', [1.5])], r'An example holds \[1.5\], which is neither a text nor token ids'),
  ({'text': ['3'], 'targets': ['4']}, r"there is no column 'inputs'; found text, targets"),
  ({'inputs': '3', 'targets': '4'}, r"The examples are a single dict, whose 'inputs' is '3'"),
])
def test_examples_that_cannot_be_read_are_errors(tiny, tmp_path, examples, message):
  with pytest.raises(ValueError, match=message):
    pt.tune(tiny, examples, model_dir=str(tmp_path / 'run'), **QUICK)
  assert not list(tmp_path.rglob('*.safetensors'))


def test_an_endless_task_without_a_validation_split_is_judged_by_its_first_examples(tiny, tmp_path):
  endless = Task('endless', {'train': Draws('SortAscending', length=3, largest=4)}, toy_run.TASK.metrics)
  run = pt.tune(tiny, endless, model_dir=str(tmp_path), lengths={'inputs': 8, 'targets': 8}, **QUICK)
  assert set(run.metrics) == {'endless/loss', 'endless/accuracy'}


def test_the_default_evaluations_may_be_replaced_but_for_the_task_that_is_given(tiny, tmp_path):
  only_loss = Evaluations(examples=0)
  run = pt.tune(tiny, PAIRS, validation=toy_run.TASK, model_dir=str(tmp_path), evaluations=only_loss, **QUICK)
  assert set(run.metrics) == {'turn/loss'}


@pytest.mark.parametrize(('call', 'message'), [
  (lambda m: pt.tune(m, ROWS, steps=2.5), r'steps=2.5 cannot be used: expected a whole number'),
  (lambda m: pt.tune(m, ROWS, batch_size=True), r'batch_size=True cannot be used'),
  (lambda m: pt.tune(m, ROWS, prompt_length=0), r'prompt_length=0 cannot be used'),
  (lambda m: pt.tune(m, ROWS, prompt_length=5, method=pt.Prefix()), r'prompt_length=5 cannot be used with method='),
  (lambda m: pt.tune(m, ROWS, step=4), r"tune\(\) has no argument 'step'. Did you mean steps"),
  (lambda m: pt.tune(m, ROWS, train_steps=4), r"tune\(\) has no argument 'train_steps'"),
  (lambda m: pt.tune('t5', ROWS), r"model='t5' cannot be used: expected LanguageModel. prompt_tuning.load_model\(path"),
  (lambda m: pt.tune(m, ROWS, method='prefix'), r'expected Method or None. Make one, such as prompt_tuning.PromptTun'),
  (lambda m: pt.tune(m, ROWS, learning_rate=float('nan')), r'learning_rate=nan cannot be used: .* number above 0'),
  (lambda m: pt.tune(m, ROWS, learning_rate=0.1, optimizer=Adafactor(0.3)), r'cannot be used with optimizer='),
  (lambda m: pt.tune(m, ROWS, seed=-1), r'seed=-1 cannot be used'),
  (lambda m: pt.tune(m, ROWS, evaluations=Evaluations(split='train', objective='acuracy', sampler=pt.Greedy())),
   r"objective='acuracy' is not among the metrics. Did you mean examples/accuracy"),
  (lambda m: Evaluations(loss_steps=-1), r'loss_steps=-1 cannot be used'),
  (lambda m: pt.Sampling(temperature=-1), r'temperature=-1 cannot be used'),
  (lambda m: m.predict(['3'], max_length=0), r'max_length=0 cannot be used'),
])
def test_numbers_that_no_run_can_mean_are_errors_before_anything_is_read(tiny, call, message):
  with pytest.raises(ValueError, match=message):
    call(tiny)


ROWS = [('3 4', '4 3'), ('5', '5')]


def test_many_prompts_are_tuned_in_one_run(tiny, run, tmp_path):
  first, second = pt.tune_many(tiny, [{'seed': 0}, {'seed': 1}], examples=iter(PAIRS), model_dir=str(tmp_path), **QUICK)
  np.testing.assert_allclose(first.trained[prompts.PATH], run.trained[prompts.PATH], atol=1e-5)
  assert first.metrics == pytest.approx(run.metrics, abs=1e-4)
  assert (second.name, second.ended, second.folder) == ('seed=1', 'finished', str(tmp_path / 'seed=1'))
  assert pt.load_prompt(second.folder).vectors.shape == (3, 12)


@pytest.mark.parametrize(('specs', 'message'), [
  ([{'seed': 1}, {'stop': None}], r'specs\[1\] \(.*1\) has stop=None, which only a run alone can have'),
  ([{'loss': 1}], 'has loss=1, which all share'),
  ([{'name': 'a', 'lenght': 3}], "has no argument 'lenght'"),
  ([], 'There are no runs'),
  ([{'prompt_length': 2, 'name': '../a'}], r"name='\.\./a' cannot be used"),
])
def test_specs_that_cannot_be_used_are_named(tiny, tmp_path, specs, message):
  with pytest.raises(ValueError, match=message):
    pt.tune_many(tiny, [{'examples': PAIRS, **spec} for spec in specs], model_dir=str(tmp_path), quiet=True)
