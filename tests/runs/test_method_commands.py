"""train, eval, infer and a plan with every method that makes a prompt or joins two, as a user types them."""

import pytest

from prompt_tuning.evaluation.saved import load_trained

COLUMNS = ['--template', 'Sum: {list}', '--target_template', '{label}', '--labels', '0=3,1=4']
QUICK = ['--steps=2', '--batch_size=4', '--evaluation_period=2', '--evaluation_examples=4', '--length=3',
         '--compare=false']
METHODS = {'residual': ['--hidden=5', '--init.population_size=9'], 'factored': ['--rank=2', '--init=normal'],
           'multitask': ['--task_rank=2', '--init=text', '--init.text=1 2'],
           'together': ['--rank=2', '--patterns=.*/wo/kernel'],
           'together with a prefix': ['--joined=prefix', '--rank=2', '--low_rank_rate=0.1']}


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('family', ['t5', 'llama'])
def test_a_method_is_trained_resumed_and_used(family, method, run, folders, rows, tmp_path):
  folder = tmp_path / 'run'
  command = ['train', '--model', folders[family], '--data', rows, '--output', folder, *COLUMNS, *QUICK, '--method',
             method.split(' ')[0], *METHODS[method]]
  status, printed, errors = run(*command, '--dry_run')
  assert status == 0, errors
  assert 'The run can start' in printed
  status, printed, errors = run(*command)
  assert status == 0, errors
  assert run(*command)[0] == 0  # resumed at its end
  status, printed, errors = run('eval', '--prompt', folder)
  assert status == 0, errors
  assert '4 examples: accuracy' in printed
  used = folder / 'prompts/rows.jsonl.safetensors' if method == 'multitask' else folder
  status, _, errors = run('infer', '--prompt', used, '--data', rows, '--output', tmp_path / 'a.jsonl')
  assert status == 0, errors
  stack = 'encoder' if family == 't5' else 'decoder'
  assert (f'{stack}/prompt/prompt/prompt' in load_trained(str(used)).tensors) == ('prefix' not in method)
