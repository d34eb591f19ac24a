"""What Python and the programs print about themselves: one line each."""

import sys

import numpy as np
import pytest
import toy_run

import prompt_tuning
from prompt_tuning import prompts
from prompt_tuning.data.tasks import Mixture
from prompt_tuning.evaluation.saved import PATH, SavedPrompt, Trained
from prompt_tuning.programs import command
from prompt_tuning.rows.layouts import before_eos
from prompt_tuning.runs.train_run import TrainRun
from prompt_tuning.training.settings import Run

VECTORS = np.zeros((20, 12), np.float32)
ABOUT = {'model': 'toy', 'task': 'turn', 'step': 9, 'metrics': {}}
TENSORS = {f'decoder/layers_{i}/mlp/wo/kernel/{part}': VECTORS for i in range(2) for part in ('down', 'up')}


@pytest.mark.parametrize(('thing', 'wanted'), [
  (toy_run.TASK, "Task('turn', splits train, validation)"),
  (Mixture('both', (toy_run.TASK,), (2.0,)), "Mixture('both', rates turn: 2)"),
  (SavedPrompt(VECTORS, before_eos, about=ABOUT),
   f'SavedPrompt({PATH}, 20 vectors of width 12, placement before_eos, model toy, task turn, step 9)'),
  (Trained(TENSORS, ABOUT), 'Trained(960 parameters in decoder/layers_0/mlp/wo/kernel/down, '
                            'decoder/layers_0/mlp/wo/kernel/up and 2 more, model toy, task turn, step 9)'),
  (Run('runs/a', 9, {PATH: VECTORS}, {'turn/accuracy': 87.54321}, None),
   f"Run('runs/a', step 9, turn/accuracy 87.54, 240 parameters in {PATH})"),
  (TrainRun(model='t5_integers', data='Add1', output='runs/a', steps=7),
   "TrainRun(model='t5_integers', data='Add1', output='runs/a', steps=7)")])
def test_each_is_one_line_that_says_what_it_is(thing, wanted):
  assert repr(thing) == wanted


def test_a_model_and_methods_print_no_arrays(tiny):
  assert repr(tiny) == (f"LanguageModel('random', family t5, step 0, 9,192 parameters of float32, vocabulary "
                        f'{tiny.vocabulary!r})')
  method = prompts.PromptTuning(prompts.Prompt(3), wayward=prompts.Wayward(VECTORS, 0.5))
  assert 'prompt=Prompt(3)' in repr(method)
  assert '\n' not in repr(tiny) + repr(method)


@pytest.mark.parametrize('argv', [['--version'], ['train', '--version'], ['eval', '--steps', '3', '--version']])
def test_programs_say_their_version(argv, capsys, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['prompt-tuning'])
  assert command.main(argv) == 0
  assert capsys.readouterr().out == f'prompt-tuning {prompt_tuning.__version__}\n'
