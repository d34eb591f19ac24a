"""Runs as values: what is checked where they are made, and their files."""

import subprocess
import sys

import pytest

from prompt_tuning.runs import run_file
from prompt_tuning.runs.choice import Choice
from prompt_tuning.runs.eval_run import EvalRun
from prompt_tuning.runs.infer_run import InferRun
from prompt_tuning.runs.train_run import TrainRun

TRAIN = {'model': 'm', 'data': 'a.jsonl', 'output': 'runs/x'}


def test_values_load_no_jax():
  code = ('import sys\nfrom prompt_tuning.runs.infer_run import InferRun\n'
          'from prompt_tuning.runs.train_run import TrainRun\n'
          f'TrainRun(**{TRAIN})\nprint([name for name in ("jax", "numpy", "flax") if name in sys.modules])')
  assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '[]\n'


@pytest.mark.parametrize(('given', 'message'), [
  ({'batch_size': 0}, r'batch_size=0 cannot be used: expected a whole number of at least 1'),
  ({'batch_size': 'many'}, r"batch_size='many' cannot be used: expected a whole number, got a text"),
  ({'learning_rate': -1.0}, r'learning_rate=-1.0 cannot be used: expected a number above 0'),
  ({'validation': 1.5}, r'validation=1.5 cannot be used'),
  ({'dtype': 'int4'}, r"dtype='int4' cannot be used: expected one of float32, bfloat16, float16, int8"),
  ({'loss_divisor': 'rows'}, r"loss_divisor='rows' cannot be used: expected one of tokens or a number"),
  ({'mesh': {'modell': 2}}, r"mesh has no setting 'modell'. Did you mean model"),
  ({'mesh': {'model': 0}}, r"mesh=\{'model': 0\} cannot be used: expected numbers of at least 1"),
  ({'method': {'name': 'prefix', 'length': 10**8}}, r'length=100000000 cannot be used: .* and of at most 65536'),
  ({'seed': 2**32}, r'seed=4294967296 cannot be used: expected a whole number of at most 4294967295'),
  ({'method': 3}, r'method=3 cannot be used: found 3, expected a name'),
  ({'model': None}, r'model is missing. Give model=FOLDER'),
  ({'data': None}, r'data is missing. Give data=FILE'),
  ({'output': None}, r'output is missing. Give output=FOLDER'),
  ({'data': 'Add1', 'template': 'Say: {text}'}, r"template='Say: \{text\}' cannot be used: Add1 is not a"),
  ({'data': 'Add1', 'loss_weight': 'w'}, r"loss_weight='w' cannot be used: Add1 is not a .jsonl, .tsv or .csv file"),
  ({'packed': True, 'buckets': (8, 16)}, r'packed=True and buckets=8,16 cannot be used together'),
  ({'steps': 5, 'total_steps': 9}, r'steps=5 and total_steps=9 cannot be used together'),
  ({'learning_rate': 0.1, 'optimizer': {'name': 'adamw', 'learning_rate': 0.2}},
   r'learning_rate=0.1 and the learning rate 0.2 of the optimizer adamw cannot be used together'),
])
def test_a_value_that_cannot_be_used_is_an_error_where_the_run_is_made(given, message):
  with pytest.raises(ValueError, match=message):
    TrainRun(**TRAIN | given)


@pytest.mark.parametrize(('kind', 'given', 'message'), [
  (EvalRun, {'model': 'm'}, 'data is missing'),
  (EvalRun, {'data': 'a.jsonl', 'prompt': '.'}, 'model is missing. Give model=FOLDER.*no run.toml'),
  (InferRun, {'model': 'm', 'data': 'a.jsonl'}, 'output is missing. Give output=FILE.jsonl'),
  (InferRun, {'model': 'm', 'data': 'a.jsonl', 'output': 'o', 'mode': 'score', 'lines': 'id||text'},
   r"lines='id\|\|text' cannot be used with mode='score'"),
  (InferRun, {'model': 'm', 'data': 'Add1', 'output': 'o', 'template': '{q}'}, r"template='\{q\}' cannot be used"),
])
def test_runs_that_use_a_prompt_are_checked_likewise(kind, given, message):
  with pytest.raises(ValueError, match=message):
    kind(**given)


@pytest.mark.parametrize('run', [
  TrainRun(**TRAIN),
  TrainRun(**TRAIN | {'data': {'name': 'integers', 'task': 'Add1', 'zeros': 2}}, method={'name': 'prefix', 'hidden': 4},
           seed=None, keep=None, steps=7, mesh={'data': -1, 'model': 2}, buckets=(8, 16),
           loss_divisor=None),
  TrainRun(**TRAIN, labels={'0': 'no', '1': 'yes'}, validation='other.jsonl', template='a "b"\n{x}'),
  TrainRun(**TRAIN, total_steps=1_100_100,
           method=Choice('prompt', {'length': None, 'init': Choice('text', {'text': 'a'})})),
  EvalRun(model='m', data='a.jsonl', prompt='p.npy', label_words=('no', 'yes')),
  InferRun(model='m', data='a.txt', output='o.jsonl', template='Q: {q}'),
])
def test_a_run_is_read_back_from_its_file(run, tmp_path):
  run_file.write(str(tmp_path / 'run.toml'), run.given(), program='train')
  again = type(run).of(run_file.read(str(tmp_path / 'run.toml')))
  assert again == run
  assert again.decides() == run.decides()


def test_a_file_holds_only_what_differs_from_the_defaults():
  assert TrainRun(**TRAIN, steps=5).given() == {**TRAIN, 'steps': 5}


def test_where_a_run_is_and_how_it_is_watched_decides_nothing_that_is_learnt():
  run = TrainRun(**TRAIN)
  watched = TrainRun(**TRAIN | {'output': 'runs/y', 'log_period': 3, 'keep': 7, 'evaluation_period': 9,
                                'mesh': {'model': 2}})
  assert run.decides() == watched.decides() != TrainRun(**TRAIN, learning_rate=0.1).decides()


@pytest.mark.parametrize(('text', 'message'), [
  ('model = m\n', r'is not TOML: .* Texts need quotes'), ('modle = "m"\n', "no setting 'modle'. Did you mean model")])
def test_a_file_with_a_slip_is_an_error_that_names_it(text, message, tmp_path):
  (tmp_path / 'run.toml').write_text(text)
  with pytest.raises(ValueError, match=message):
    TrainRun.of(run_file.read(str(tmp_path / 'run.toml')))


def test_what_a_run_that_trained_tells_need_not_be_given_again(tmp_path):
  trained = TrainRun(model='m', data='a.jsonl', output=str(tmp_path), template='Q: {q}', labels={'0': 'no'},
                     max_target_length=5, dtype='bfloat16', validation=0.2)
  run_file.write(str(tmp_path / 'run.toml'), trained.given(), program='train')
  run = EvalRun.after(str(tmp_path), {})
  assert (run.model, run.data.name, run.template, run.max_target_length) == ('m', 'a.jsonl', 'Q: {q}', 5)
  assert (run.dtype, run.validation, run.split) == ('bfloat16', 0.2, 'validation')
  other = EvalRun.after(str(tmp_path / 'best.safetensors'), {'data': 'b.jsonl'})
  assert (other.data.name, other.template, other.validation, other.prompt) == (
    'b.jsonl', 'Q: {q}', 0.1, str(tmp_path / 'best.safetensors'))
  assert other.split == 'all'  # of another file nothing was trained on
  assert EvalRun.after(str(tmp_path), {'data': 'Add1'}).template == '{inputs}'  # a task has no columns
  lines = InferRun.after(str(tmp_path), {'data': 'q.txt', 'output': 'o.jsonl'})
  assert (lines.template, lines.labels) == ('Q: {q}', None)
