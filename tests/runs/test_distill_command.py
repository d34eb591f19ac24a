"""`prompt-tuning distill` as users type it: phases, figures, files for PEFT, kills, errors."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import chat_toys
import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning.programs import distill
from prompt_tuning.runs.distill_run import DistillRun

TEXT = 'A gem is a stone. It is cut, and worn by kings.\nGlass is no gem.'
SMALL = ['--length', '6', '--frozen', '2', '--count', '4', '--question_length', '4', '--answer_length', '5',
         '--top', '3', '--chunk_length', '30', '--steps', '12', '--batch_size', '2', '--log_period', '4',
         '--held_out', '0.3']
PHASES = ('study.json', 'questions.jsonl', 'answers.jsonl', 'scores.teacher', 'start.safetensors', 'best.safetensors')
SAME = (*PHASES, 'comparison.json', 'last.safetensors', 'checkpoint_12/state.safetensors')


@pytest.fixture(scope='session')
def chat(tmp_path_factory):
  """The folder of a random chat model."""
  return chat_toys.write_model(tmp_path_factory.mktemp('chat') / 'model')


@pytest.fixture
def document(tmp_path):
  (tmp_path / 'gem.txt').write_text(TEXT)
  return tmp_path / 'gem.txt'


@pytest.mark.slow
def test_a_document_is_distilled_evaluated_and_converted_for_peft(run, chat, document, tmp_path):
  output = tmp_path / 'run'
  command = ['distill', '--model', chat, '--document', document, '--output', output, *SMALL]
  status, printed, errors = run(*command)
  assert status == 0, errors
  for phase in ('Asking 4 questions', 'Answering', 'Scoring', 'Compiling a step'):
    assert phase in errors, errors
  assert 'before a question' in printed and 'the document' in printed and 'keys and values for each context' in printed
  assert set(PHASES) | {'comparison.png', 'run.toml'} <= set(os.listdir(output))
  trained = pt.load_trained(str(output))
  assert trained.about['frozen'] == 2 and trained.tensors['decoder/prefix/keys'].shape[1] == 6
  assert run(*command)[0] == 0  # resumed: nothing is left to do
  status, printed, errors = run('eval', '--prompt', output)
  assert status == 0 and 'accuracy' in printed, errors
  status, printed, errors = run('convert', output, tmp_path / 'peft')
  assert status == 0 and 'CARTRIDGE' in printed, errors
  config = json.loads((tmp_path / 'peft/adapter_config.json').read_text())
  assert (config['num_virtual_tokens'], config['num_frozen_tokens']) == (6, 2)
  assert run('convert', tmp_path / 'peft', tmp_path / 'back.safetensors')[0] == 0
  again = pt.load_trained(str(tmp_path / 'back.safetensors'))
  assert again.about['frozen'] == 2
  for name, array in trained.tensors.items():
    np.testing.assert_array_equal(again.tensors[name], array)


@pytest.mark.slow
def test_a_run_that_is_killed_in_each_phase_ends_with_the_same_bits(chat, tmp_path):
  def start(name: str) -> subprocess.Popen:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / 'gem.txt').write_text(TEXT)
    return subprocess.Popen(
      [sys.executable, '-m', 'prompt_tuning.programs.command', 'distill', '--model', chat, '--document', 'gem.txt',
       '--output', 'run', *SMALL, '--saving_period', '2', '--keep', 'none'], cwd=folder,
      env={**os.environ, 'PYTHONPATH': str(pathlib.Path(pt.__file__).parents[1])}, stderr=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL)

  assert start('whole').wait() == 0
  for file in (*PHASES[:4], 'checkpoint_4/state.safetensors', 'best.safetensors'):
    process = start('killed')
    while process.poll() is None and not (tmp_path / 'killed/run' / file).exists():
      time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert start('killed').wait() == 0
  for name in SAME:
    assert (tmp_path / 'killed/run' / name).read_bytes() == (tmp_path / 'whole/run' / name).read_bytes(), name


def test_flags_become_a_run():
  found = distill.describe(['--model', 'm', '--document=d.txt', '--output', 'runs/x', '--top', '5', '--held_out=0.5',
                            '--question_template', 'Q: {question}', '--context_length', 'none'])
  assert isinstance(found, DistillRun) and found.document == 'd.txt'
  assert (found.study.top, found.study.held_out, found.study.context_length) == (5, 0.5, None)
  assert found.train.method.name == 'prefix' and found.train.method.options == {'length': 256, 'frozen': 1}
  assert (found.train.steps, found.train.loss.name, found.train.data.name) == (
    500, 'distillation', 'runs/x/scores.teacher')
  prompt = distill.describe(['--model', 'm', '--document', 'd', '--output', 'o', '--method', 'prompt', '--length', '8',
                             '--total_steps', '7'])
  assert prompt.train.method.options == {'length': 8} and prompt.train.total_steps == 7


@pytest.mark.parametrize(('flags', 'message'), [
  ((), 'distills|Distils'),
  (('--output', 'o', '--model', 'm'), '--document is missing'),
  (('--document', 'd', '--model', 'm'), '--output is missing'),
  (('--document', 'd', '--model', 'm', '--output', 'o', '--data', 'x'), '--data cannot be used here: the teacher file'),
  (('--document', 'd', '--model', 'm', '--output', 'o', '--top', 'x'), '--top=x cannot be used: expected a'),
  (('--document', 'd', '--model', 'm', '--output', 'o', '--held_out', '2'), '--held_out=2.0 cannot be used'),
  (('--document', 'd', '--model', 'm', '--output', 'o', '--first', 'x'), "--first='x' cannot be used: expected first"),
  (('--document', 'd', '--model', 'm', '--output', 'o', '--method', 'low_rank'), '--method=low_rank cannot be used: a'),
  (('--document', 'd', '--model', 'm', '--output', 'o', '--split', 'all'), '--split=all cannot be used when a'),
  (('--document', 'd', '--model', 'm', '--output', 'o', '--tops', '3'), 'There is no flag --tops'),
  (('--document', 'd', '--model', 'm', '--output', 'o', '--top', '3', '4'), '--top has 2 values'),
  (('--document', 'none.txt', '--model', 'm', '--output', 'o'), 'none.txt: there is no such file'),
])
def test_what_cannot_be_distilled_is_said_in_flags(run, monkeypatch, tmp_path, flags, message):
  monkeypatch.chdir(tmp_path)
  status, printed, errors = run('distill', *flags)
  assert status == 2 and re.search(message, errors or printed), (printed, errors)
  assert 'Traceback' not in errors


def test_models_and_documents_that_do_not_fit_are_said_before_any_work(run, folders, tmp_path):
  document = tmp_path / 'numbers.txt'
  document.write_text('3 1 2 4 5')
  (tmp_path / 'empty.txt').write_text(' \n')
  for model, text, more, message in (
      (folders['t5'], document, (), 'use a decoder-only model'),
      (folders['llama'], tmp_path / 'empty.txt', (), 'document is empty'),
      (folders['llama'], document, ('--length', '4000'), '--length=4000 cannot be used: the document has')):
    status, _, errors = run('distill', '--model', model, '--document', text, '--output', tmp_path / 'run', *more)
    assert status == 2 and message in errors.lower(), errors
    assert not (tmp_path / 'run' / 'study.json').exists()


def test_the_help_lists_the_flags(run):
  status, printed, _ = run('distill', '--help')
  assert status == 0 and '--question_temperature' in printed and 'questions that the model asks' in printed
