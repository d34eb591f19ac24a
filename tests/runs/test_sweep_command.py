"""`prompt-tuning sweep` and `find-rate` as users type them: products of values, files of runs, tables, advice."""

import json
import pathlib

import pytest
from test_commands import COLUMNS

QUICK = ['--steps', '4', '--batch_size', '4', '--evaluation_period', '2', '--evaluation_examples', '4',
         '--log_period', '1', '--max_target_length', '4', *COLUMNS]


def lines(path):
  return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


@pytest.mark.slow
def test_sweep_trains_the_product_halves_it_and_can_be_repeated(run, folders, rows, tmp_path):
  command = ['sweep', '--model', folders['t5'], '--data', rows, '--output', tmp_path / 'sweep', '--learning_rate',
             '0.01', '0.3', '--seed', '0', '1', '--length', '3', '--halving', '2', *QUICK]
  status, printed, errors = run(*command)
  assert status == 0, errors
  assert 'Halving: 4 runs, 2 after step 1, 1 after step 2: 50% of the rows' in errors
  assert '4 of 4 run' in errors and 'seed=1: ended by halving at step 1' in errors
  assert '--seed' not in errors
  table = lines(tmp_path / 'sweep/table.jsonl')
  names = {f'learning_rate={rate},seed={seed}' for rate in ('0.01', '0.3') for seed in (0, 1)}
  assert {line['name'] for line in table} == names
  assert table[0]['ended'] == 'finished' and set(table[0]['settings']) == {'learning_rate', 'seed'}
  assert 'rows.jsonl/accuracy' in printed and f'eval --prompt {table[0]["folder"]}' in printed
  assert (tmp_path / 'sweep/curves.png').stat().st_size > 1000
  best = tmp_path / 'sweep' / table[0]['name']
  assert {'run.toml', 'best.safetensors', 'last.safetensors', 'metrics.jsonl', 'before.json'} <= {
    path.name for path in best.iterdir()}
  status, printed, errors = run(*command)
  assert status == 0 and 'The 4 runs' in errors and 'have ended' in errors
  assert lines(tmp_path / 'sweep/table.jsonl') == table
  status, _, errors = run('train', '--config', best / 'run.toml')
  assert status == 0 and 'has ended at step 4' in errors, errors
  status, printed, errors = run('eval', '--prompt', best)
  assert status == 0 and '4 examples: accuracy' in printed, errors


def test_runs_of_a_file_have_their_own_data_and_the_plan_is_shown(run, folders, rows, tmp_path):
  (tmp_path / 'runs.toml').write_text(
    f'[first]\nlength = 3\nlearning_rate = 0.1\n[second]\ndata = "{rows}"\noptimizer = {{name = "adamw", b1 = 0.8}}\n')
  status, printed, errors = run('sweep', '--model', folders['llama'], '--data', rows, '--output', tmp_path / 'sweep',
                                '--runs', tmp_path / 'runs.toml', '--dry_run', *QUICK)
  assert status == 0, errors
  assert '2 runs in' in printed and '  second: 4 steps of 4 rows' in printed and 'nothing was trained' in printed


@pytest.mark.slow
def test_find_rate_advises_the_rate_of_the_lowest_loss(run, folders, rows, tmp_path):
  status, printed, errors = run('find-rate', '--model', folders['llama'], '--data', rows,
                                '--output', tmp_path / 'rates', '--rates', '0.001', '0.3', '--steps', '6',
                                '--batch_size', '4', *COLUMNS)
  assert status == 0, errors
  table = {line['name']: line for line in lines(tmp_path / 'rates/table.jsonl')}
  losses = {name.partition('=')[2]: line['metrics']['rows.jsonl/loss'] for name, line in table.items()}
  assert f'Advised: --learning_rate {min(losses, key=losses.get)}' in printed
  assert 'try others by --rates' in printed and (tmp_path / 'rates/rates.png').exists()


@pytest.mark.parametrize(('arguments', 'message'), [
  (['--dtype', 'float32', 'bfloat16'], '--dtype cannot vary in one sweep'),
  (['--method', 'prompt', 'prefix'], '--method cannot vary in one sweep'),
  (['--seed', '0', '0'], '--seed has the value 0 twice'),
  (['--seed', '0', '--seed', '1'], '--seed is given twice'),
  (['--halving', '1'], '--halving=1 cannot be used'),
  (['--halving', '2', '3'], '--halving has 2 values'),
  (['--stop_accuracy', '0.9'], '--stop_accuracy=0.9 cannot be used in a sweep'),
  (['--learning_rat', '0.1', '0.2'], 'There is no flag --learning_rat. Did you mean --learning_rate'),
  (['--gin_file=a.gin'], '--gin_file cannot be used here'),
  (['--process_count', '2'], '--process_count cannot be used here'),
  (['--runs', 'absent.toml'], '--runs=absent.toml: there is no such file'),
  (['--learning_rate', 'x', '1'], '--learning_rate=x cannot be used: expected a number'),
  (['--seed', 'none'], '--seed=none cannot be used in a sweep'),
  (['--dry_run', 'compile'], '--dry_run=compile cannot be used here'),
], ids=lambda each: ' '.join(each) if isinstance(each, list) else '')
def test_what_cannot_vary_or_be_used_is_named(arguments, message, run, folders, rows, tmp_path):
  status, _, errors = run('sweep', '--model', folders['t5'], '--data', rows, '--output', tmp_path / 'sweep', *arguments)
  assert status == 2 and message in errors, errors
  assert not (tmp_path / 'sweep').exists()


@pytest.mark.parametrize(('text', 'message'), [
  ('a = 1', 'a is not a table'), ('', 'has no tables'), ('[a]\noutput = "x"', '[a] has output'), ('[a', 'is not TOML'),
  ('[a]\nlenth = 3', '[a]: There is no flag --lenth. Did you mean --length'),
  ('[a]\nseed = 1\n[b]\nmethod = "prefix"', "method=prefix of b and"), ('[a]\nsteps = [[1]]', 'steps = '),
], ids=lambda each: '')
def test_files_of_runs_that_cannot_be_used_are_named(text, message, run, folders, rows, tmp_path):
  (tmp_path / 'runs.toml').write_text(text)
  status, _, errors = run('sweep', '--model', folders['t5'], '--data', rows, '--output', tmp_path / 'sweep', '--runs',
                          tmp_path / 'runs.toml')
  assert status == 2 and message in errors, errors


def test_help_lists_the_flags_of_a_sweep(run):
  for program, flag in (('sweep', '--halving'), ('find-rate', '--rates')):
    status, printed, _ = run(program, '--help')
    assert status == 0 and flag in printed
