"""train, eval and infer by plain flags, as a new user types them, on folders of a T5 and a Llama with a JSONL file."""

import dataclasses
import json
import pathlib
import sys

import numpy as np
import pytest

from prompt_tuning.checkpoints import peft
from prompt_tuning.evaluation import saved
from prompt_tuning.losses.registry import LOSSES
from prompt_tuning.models.families.registry import FAMILIES
from prompt_tuning.training.registry import OPTIMIZERS
from prompt_tuning.tuning.registry import METHODS

COLUMNS = ['--template', 'Sum: {list}', '--target_template', '{label}', '--labels', '0=3,1=4']
REGISTERED = ((METHODS, 'scaled'), (LOSSES, 'squared'), (OPTIMIZERS, 'plain_sgd'), (FAMILIES, 'toy_llama'))
QUICK = ['--steps=4', '--batch_size=4', '--evaluation_period=2', '--evaluation_examples=4', '--log_period=1']


def lines(path):
  return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


@pytest.mark.parametrize('family', ['t5', 'llama'])
def test_train_eval_and_infer(family, run, folders, rows, tmp_path):
  folder = tmp_path / 'run'
  status, printed, errors = run('train', '--model', folders[family], '--data', rows, '--output', folder, *COLUMNS,
                                *QUICK)
  assert status == 0, errors
  assert 'Compiling a step' in errors and 'Evaluating the frozen model alone' in errors
  for text in ('frozen model', 'tuned', 'rows.jsonl/accuracy', f'{folder}/best.safetensors', f'eval --prompt {folder}'):
    assert text in printed

  status, printed, errors = run('eval', '--prompt', folder)  # the rows that training kept for validation
  assert status == 0, errors
  trained = {line['step']: line for line in lines(folder / 'inference_eval/rows.jsonl-metrics.jsonl')}
  best = saved.load_trained(str(folder)).about['step']
  assert f'4 examples: accuracy {trained[best]["accuracy"]:.4g}' in printed  # the figures that training printed

  status, printed, errors = run('eval', '--prompt', folder, '--data', rows, '--output', tmp_path / 'judged')
  assert 'rows.jsonl, 40 examples' in printed
  assert 'holds the rows that the prompt was trained on' in errors
  assert (tmp_path / 'judged/run.toml').exists()

  status, printed, errors = run('infer', '--prompt', folder, '--data', rows, '--output', tmp_path / 'answers.jsonl')
  assert status == 0, errors
  found = lines(tmp_path / 'answers.jsonl')
  assert [list(line) for line in found] == [['id', 'list', 'label', 'prediction']] * 40
  assert [line['id'] for line in found] == list(range(40))
  written = lines(tmp_path / f'judged/inference_eval/rows.jsonl-{best:06}.jsonl')
  assert [line['prediction'] for line in found] == [line['prediction'] for line in written]

  (tmp_path / 'lists.txt').write_text('1 2 3\n4 5\n')
  status, _, errors = run('infer', '--prompt', folder, '--data', tmp_path / 'lists.txt',
                          '--output', tmp_path / 'b.jsonl')
  assert status == 0, errors
  assert [list(line) for line in lines(tmp_path / 'b.jsonl')] == [['inputs', 'prediction']] * 2


def test_a_run_is_repeated_by_its_file_and_resumed_by_the_same_command(run, folders, rows, tmp_path):
  command = ['train', '--model', folders['t5'], '--data', rows, *COLUMNS, *QUICK, '--method', 'prefix', '--length', '3']
  assert run(*command, '--output', tmp_path / 'first')[0] == 0
  assert run('train', '--config', tmp_path / 'first/run.toml', '--output', tmp_path / 'again')[0] == 0
  first, again = (saved.load_trained(str(tmp_path / name)).tensors for name in ('first', 'again'))
  for name, array in first.items():
    np.testing.assert_array_equal(array, again[name])
  status, _, errors = run(*command, '--output', tmp_path / 'first')
  assert status == 0 and 'Resumed at step 4 of 4' in errors
  status, _, errors = run('train', '--config', tmp_path / 'first/run.toml')
  assert status == 0 and 'Resumed at step 4 of 4' in errors
  status, _, errors = run(*command, '--output', tmp_path / 'first', '--learning_rate', '0.01')
  assert status == 2 and 'holds another run (learning_rate: ' in errors and '0.01 here' in errors


@pytest.mark.parametrize(('arguments', 'message'), [
  (['--model', 't5_integer'], 'there is no such folder. Did you mean t5_integers'),
  (['--model', __file__], 'this is a file. Give a T5X checkpoint, a Hugging Face folder, a GGUF file, or the name'),
  (['--template', 'Sum: {lst}'], "there is no column 'lst'; found id, list, label. Did you mean list"),
  (['--loss', 'margn'], "There is no loss 'margn'. Did you mean margin"),
  (['--loss.z_los', '3'], "The loss cross_entropy has no option 'z_los'. Did you mean z_loss"),
  (['--optimizer', 'adafactr'], "There is no optimizer 'adafactr'. Did you mean adafactor"),
  (['--optimizer', 'lion'], 'The optimizer lion has no default learning rate. Give --learning_rate=NUMBER'),
  (['--sampler', 'beam'], "There is no sampler 'beam'"),
  (['--evaluation_split', 'tset'], "has no split 'tset'"),
  (['--init', 'unifrm'], "There is no first value 'unifrm'"),
  (['--length', '0'], '--length=0 cannot be used'),
  (['--metrics', 'f1:5'], "none of the 4 targets is '5'; found '3', '4'"),
])
def test_what_cannot_work_ends_with_one_message(arguments, message, run, folders, rows, tmp_path):
  given = dict(zip(COLUMNS[::2], COLUMNS[1::2], strict=True)) | {'--model': folders['t5']} | dict(
    zip(arguments[::2], arguments[1::2], strict=True))
  status, _, errors = run('train', '--data', rows, '--output', tmp_path / 'run', *QUICK,
                          *(f'{name}={value}' for name, value in given.items()))
  assert status == 2
  assert message in errors and 'Traceback' not in errors
  assert not (tmp_path / 'run/metrics.jsonl').exists()


def test_a_run_whose_rate_does_not_fall_can_be_extended(run, folders, rows, tmp_path):
  command = ['train', '--model', folders['t5'], '--data', rows, *COLUMNS, *QUICK, '--output', tmp_path / 'run',
             '--length=2', '--schedule=constant']
  assert run(*command)[0] == 0
  status, _, errors = run(*('--steps=6' if each == '--steps=4' else each for each in command))
  assert status == 0 and 'Resumed at step 4 of 6' in errors


def test_without_data_predictions_are_for_the_rows_kept_for_validation(run, folders, rows, tmp_path):
  trained = tmp_path / 'run'
  assert run('train', '--model', folders['t5'], '--data', rows, '--output', trained, *COLUMNS, *QUICK)[0] == 0
  status, _, errors = run('infer', '--prompt', trained, '--output', tmp_path / 'kept.jsonl')
  assert status == 0, errors
  kept = lines(tmp_path / 'kept.jsonl')
  assert 0 < len(kept) < 40 and all(list(line) == ['id', 'list', 'label', 'prediction'] for line in kept)
  assert [(line['list'], line['label']) for line in kept] == [
    (f'{i % 7} {i % 5} {i % 3}', i % 2) for i in (line['id'] for line in kept)]
  (tmp_path / 'answered.jsonl').write_text((tmp_path / 'kept.jsonl').read_text())
  status, _, errors = run('infer', '--prompt', trained, '--data', tmp_path / 'answered.jsonl', '--output',
                          tmp_path / 'b.jsonl')
  assert status == 2 and "already has a column 'prediction'" in errors


def test_the_plan_of_plain_flags(run, folders, rows, tmp_path):
  status, printed, errors = run('train', '--model', folders['llama'], '--data', rows, '--output', tmp_path / 'run',
                                *COLUMNS, '--dry_run')
  assert status == 0, errors
  assert 'Steps: 0 to 1000' in printed and f'{tmp_path}/run/run.toml' in printed and 'The run can start' in printed
  assert not (tmp_path / 'run').exists()


def test_the_plan_of_a_run_that_has_ended_or_whose_targets_cannot_be_given_back(run, folders, rows, tmp_path):
  common = ['train', '--model', folders['t5'], '--data', rows, *COLUMNS, *QUICK]
  assert run(*common, '--output', tmp_path / 'run')[0] == 0
  status, printed, errors = run(*common, '--output', tmp_path / 'run', '--dry_run')
  assert status == 2 and f'The run in {tmp_path / "run"} has ended at step 4' in errors
  assert 'First values: sampled; learning rate' in printed and 'dropout 0; seed 0' in printed
  status, printed, errors = run(*common, '--output', tmp_path / 'other', '--dry_run', '--max_target_length', '1')
  assert 'metrics.jsonl' not in printed  # nothing is listed that would not be written
  assert status == 2 and 'targets of' in errors and 'are longer than --max_target_length= allows and are cut' in errors


def test_tensors_to_start_from_are_compared_before_anything_is_evaluated(run, folders, rows, tmp_path):
  np.save(tmp_path / 'first.npy', np.zeros((3, 8), np.float32))
  for more in ([], ['--dry_run']):
    status, _, errors = run('train', '--model', folders['t5'], '--data', rows, '--output', tmp_path / 'run', *COLUMNS,
                            '--start_from', tmp_path / 'first.npy', '--length=4', *more)
    assert status == 2 and 'Evaluating' not in errors
    assert f'--start_from={tmp_path}/first.npy cannot be used. The trained tensors to start from are enc' in errors


@pytest.mark.parametrize('flags', [['--start_from', 'absent.npy'], ['--init', 'file', '--init.path', 'absent.npy']])
def test_files_of_first_values_are_read_before_the_model(flags, run, folders, rows, tmp_path):
  status, _, errors = run('train', '--model', folders['t5'], '--data', rows, '--output', tmp_path / 'run', *COLUMNS,
                          *flags)
  assert status == 2 and 'absent.npy' in errors and 'Reading' not in errors


def test_rows_that_no_memory_holds_are_refused_with_the_flags_that_set_them(run, folders, rows, tmp_path):
  status, _, errors = run('train', '--model', folders['t5'], '--data', rows, '--output', tmp_path / 'run', *COLUMNS,
                          '--max_input_length=900000000000', '--max_target_length=3', '--dry_run')
  assert status == 2 and 'There is not enough memory (Unable to allocate' in errors
  assert 'Give a smaller --batch_size=, --max_input_length= or --max_target_length=.' in errors


def test_words_to_rank_are_compared_with_the_targets_before_the_model_is_read(run, folders, rows, tmp_path):
  status, _, errors = run('eval', '--model', folders['t5'], '--data', rows, *COLUMNS, '--label_words=3,5', '--output',
                          tmp_path / 'judged')
  assert status == 2 and "The target '4' is not among the words to rank, '3', '5'" in errors
  assert 'Reading' not in errors and not (tmp_path / 'judged').exists()


def test_a_prompt_may_be_a_folder_of_peft(run, folders, rows, tmp_path):
  vectors = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
  np.save(tmp_path / 'prompt.npy', vectors)
  peft.write_adapter(str(tmp_path / 'peft'), {peft.DECODER_PROMPT: vectors}, task_type='CAUSAL_LM')
  answers = []
  for prompt in ('prompt.npy', 'peft'):
    common = ['--model', folders['llama'], '--prompt', tmp_path / prompt, '--data', rows, '--template', '{list}']
    status, printed, errors = run('infer', *common, '--output', tmp_path / f'{prompt}.jsonl')
    assert status == 0, errors
    answers.append([line['prediction'] for line in lines(tmp_path / f'{prompt}.jsonl')])
    status, printed, errors = run('infer', *common, '--output', tmp_path / 'plan.jsonl', '--dry_run')
    assert status == 0 and 'decoder/prompt/prompt/prompt (3, 12)' in printed.replace('encoder', 'decoder'), errors
  assert answers[0] == answers[1] and len(set(answers[0])) > 1


@pytest.fixture
def registrations(monkeypatch):
  """Lets `--import` find the module beside this one, and undoes what it registers."""
  monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))
  yield 'toy_registrations'
  sys.modules.pop('toy_registrations', None)
  for registry, name in REGISTERED:
    registry.pop(name, None)


def test_a_method_a_family_a_loss_and_an_optimizer_of_ones_own_go_through_the_command(
    registrations, run, folders, rows, tmp_path):
  model, source = tmp_path / 'model', pathlib.Path(folders['llama'])
  model.mkdir()
  for file in source.iterdir():
    (model / file.name).write_bytes(file.read_bytes())
  config = json.loads((source / 'config.json').read_text())
  (model / 'config.json').write_text(json.dumps(config | {'model_type': 'toy_llama'}))
  folder = tmp_path / 'run'
  status, printed, errors = run(
    'train', '--import', registrations, '--model', model, '--data', rows, '--output', folder, *COLUMNS, *QUICK,
    '--method=scaled', '--vectors=3', '--scale', '0.25', '--loss=squared', '--loss.power=1.5', '--optimizer=plain_sgd',
    '--optimizer.momentum=0.9', '--learning-rate=0.1')
  assert status == 0, errors
  trained = saved.load_trained(str(folder))
  assert trained.about['made_for']['family'] == 'toy_llama'
  ((method, tensors),) = trained.parts()
  assert dataclasses.asdict(method) == {'vectors': 3, 'scale': 0.25}
  assert tensors['decoder/scaled/vectors'].shape == (3, 12) and not np.allclose(tensors['decoder/scaled/vectors'], 1)
  status, printed, errors = run('eval', '--prompt', folder)
  assert status == 0 and 'accuracy' in printed, errors
  status, printed, errors = run('infer', '--prompt', folder, '--data', rows, '--output', tmp_path / 'a.jsonl')
  assert status == 0 and len(lines(tmp_path / 'a.jsonl')) == 40, errors
  sys.modules.pop(registrations)
  for registry, name in REGISTERED:  # as in a new process
    registry.pop(name)
  status, printed, errors = run('train', '--config', folder / 'run.toml', '--output', tmp_path / 'again', '--dry_run')
  assert status == 0 and 'Trained by Scaled: 36 parameters' in printed, errors
  status, printed, errors = run('train', '--config', folder / 'run.toml', '--output', tmp_path / 'again')
  assert status == 0, errors
  assert (tmp_path / 'again/best.safetensors').read_bytes() == (folder / 'best.safetensors').read_bytes()
  status, _, errors = run('train', '--import', registrations, '--model', model, '--data', rows, '--output', folder,
                          '--method=scaled', '--rank=3')
  assert status == 2 and 'the method scaled has no such setting, but low_rank, factored and together have it' in errors
