"""benchmarks/methods.py: what it measures next, its table, and one measurement at toy size."""

import argparse
import importlib
import json
import pathlib
import shlex
import sys

import chat_toys
import pytest

from prompt_tuning.models.finding import find_model
from prompt_tuning.runs import flags

BENCHMARKS = pathlib.Path(__file__).parents[2] / 'benchmarks'
PROTOCOL = {'steps': 2, 'batch_size': 2, 'inputs': 40, 'validation': 3, 'test': 2}


@pytest.fixture
def module(monkeypatch):
  """Returns a function that imports a module of the benchmarks."""
  monkeypatch.syspath_prepend(BENCHMARKS)
  yield importlib.import_module
  for name in [name for name in sys.modules if name.startswith('methods')]:
    del sys.modules[name]


def test_the_best_of_the_tried_settings_is_measured_with_further_seeds_and_shown(module):
  methods, tried = module('methods'), {'a': ('ours', ['--x', '--y']), 'b': ('ours', ['--z'])}
  results = [{'method': 'a', 'settings': '--y', 'seed': 0, 'protocol': {**PROTOCOL, 'steps': 3}, 'validation': 99.0}]
  found = []
  while (job := methods.next_job(results, tried, PROTOCOL)) is not None:
    found.append((job['method'], job['settings'], job['seed']))
    validation = {'--x': 60.0, '--y': 70.0}.get(job['settings'], 50.0)
    results.append({**job, 'validation': validation, 'test': 80.0 + job['seed'], 'trained': 7, 'bytes': 1000,
                    'seconds': 2.0, 'memory': 3e6})
  assert found == [('a', '--x', 0), ('a', '--y', 0), ('a', '--y', 1), ('a', '--y', 2), ('b', '--z', 0)]
  assert methods.table(results, tried, PROTOCOL).splitlines()[2:] == [
    '| a | 81.00 (80.00 to 82.00) | 3 | 7 | 1,000 | 2 | 3 | `--y` |',
    '| b | 80.00 (80.00 to 80.00) | 1 | 7 | 1,000 | 2 | 3 | `--z` |']


def test_every_setting_of_this_package_is_one_of_a_method(module):
  settings = module('methods_settings')
  parser = argparse.ArgumentParser()
  flags.add(parser, 'train')
  for program, tried in [*settings.METHODS.values(), *settings.INTEGERS.values()]:
    for each in tried if program == settings.OURS else ():
      given, rest = flags.take_options('train', shlex.split(each.replace('TOKENS', '9')))
      if not rest[0].startswith('--shots='):
        given = {**vars(parser.parse_args(rest)), **given}
        run = flags.run_of('train', {'model': 'm', 'data': 'd', 'output': 'o', **given}, None)
        assert run.method.name in each


@pytest.mark.slow
@pytest.mark.parametrize(('method', 'settings'), [
  ('few-shot in context', '--shots=2'), ('superposed', '--method=factored --rank=3 --length=2'),
  ('prefix from text', '--method=prefix --length=TOKENS --text="Is it?"')])
def test_a_measurement(module, method, settings, tmp_path):
  model = chat_toys.write_model(tmp_path / 'model')
  for name in ('train', 'test'):
    (tmp_path / f'{name}.jsonl').write_text('\n'.join(
      json.dumps({'text': f'Film {{{i}}}', 'label': ('negative', 'positive')[i % 2]}) for i in range(9)))
  (tmp_path / 'parts').mkdir()
  rows = module('methods_rows').split(str(tmp_path), PROTOCOL, str(tmp_path / 'parts'))
  assert [len(pathlib.Path(rows[name]).read_text().splitlines()) for name in rows] == [6, 3, 2]
  job = {'method': method, 'settings': settings, 'seed': 1, 'protocol': PROTOCOL}
  found = module('methods_ours').measure(job, model, rows, str(tmp_path / 'run'))
  assert 0 <= found['test'] <= 100 and found['seconds'] > 0 and found['memory'] > 1e6
  tokens = 5  # of the text
  count = {'few-shot in context': 0, 'superposed': 3 * (2 + 12), 'prefix from text': 2 * 2 * tokens * 2 * 6}[method]
  assert found['trained'] == count and (found['bytes'] > 0) == (count > 0)


@pytest.mark.slow
@pytest.mark.parametrize('program, settings, count', [
  ('methods_ours', '--method=prompt --length=3', 3 * 96), ('methods_ours', '--shots=0', 0),
  ('methods_peft', '--kind=prompt --learning_rate=0.1', 20 * 96)])
def test_a_measurement_of_integer_tasks(module, program, settings, count, tmp_path):
  if program == 'methods_peft':
    pytest.importorskip('peft')
  protocol = {'steps': 2, 'batch_size': 3, 'validation': 4, 'test': 5, 'tasks': ['Add1', 'Modulo']}
  rows, folder = module('methods_rows'), find_model('t5_integers')
  (tmp_path / 'rows').mkdir()
  rows.write_integers(protocol, str(tmp_path / 'rows'))
  tasks = rows.integers_of(str(tmp_path / 'rows'), protocol)
  assert {name: len(pathlib.Path(path).read_text().splitlines()) for name, path in tasks['Modulo'].items()} == {
    'train': 6, 'validation': 4, 'test': 5}
  job = {'method': 'a', 'settings': settings, 'seed': 1, 'protocol': protocol}
  found = module(program).measure_tasks(job, folder, tasks, str(tmp_path / 'run'))
  assert found['trained'] == count and (found['bytes'] > 0) == (count > 0) and found['memory'] > 1e6
  assert found['test'] == sum(found['tasks'].values()) / 2 and set(found['tasks']) == {'Add1', 'Modulo'}
