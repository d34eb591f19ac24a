"""Requirements for every script: help without JAX, and messages instead of stack traces."""

import subprocess
import sys

import pytest

from prompt_tuning.scripts import find_module

SCRIPTS = {
  'find_module': ['module'],
  'extract_variable': ['--checkpoint_dir', '--variable_path', '--restore_dtype', '--output_path'],
  'subsample_vocab': ['--checkpoint_dir', '--embeddings_path', '--restore_dtype', '--prompt_length',
                      '--population_size', '--seed', '--output_path'],
  'diff_checkpoints': ['--left', '--right', '--atol'],
  'recreate_checkpoint': ['--model_dir', '--step', '--output_dir', '--model', '--prompt'],
  'make_tokenizer': ['--pairs', '--output_dir', '--size'],
  'mrqa_to_tsv': ['--jsonl', '--header', '--delim', '--output'],
}


@pytest.mark.parametrize('name', SCRIPTS)
def test_help_lists_the_flags_and_loads_nothing_heavy(name):
  code = ('import runpy, sys\n'
          f'sys.argv = ["{name}", "--help"]\n'
          'try:\n'
          f'  runpy.run_module("prompt_tuning.scripts.{name}", run_name="__main__")\n'
          'finally:\n'
          '  print([m for m in ("jax", "numpy", "gin", "tensorflow", "absl") if m in sys.modules])')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.splitlines()[-1] == '[]'
  assert all(flag in done.stdout for flag in SCRIPTS[name])


def test_the_folder_of_a_module_is_printed_without_importing_it(script, tmp_path, monkeypatch):
  (tmp_path / 'guarded' / 'inner').mkdir(parents=True)
  (tmp_path / 'guarded' / '__init__.py').write_text('raise RuntimeError')
  (tmp_path / 'guarded' / 'inner' / '__init__.py').write_text('raise RuntimeError')
  (tmp_path / 'guarded' / 'file.py').write_text('raise RuntimeError')
  monkeypatch.syspath_prepend(tmp_path)
  assert script('find_module', 'guarded')[:2] == (0, f'{tmp_path}/guarded\n')
  assert script('find_module', 'guarded.inner')[:2] == (0, f'{tmp_path}/guarded/inner\n')
  assert find_module.find_folder('guarded.file') == str(tmp_path / 'guarded')
  assert find_module.find_folder('guarded.file.more') is None
  assert 'guarded' not in sys.modules


def test_the_package_itself_is_found(script):
  import prompt_tuning

  assert script('find_module', 'prompt_tuning') == (0, prompt_tuning.__path__[0] + '\n', '')


@pytest.mark.parametrize('name', ['flaxformer_of_nobody', 'prompt_tuning.nothing', 'sys'])
def test_an_absent_module_prints_nothing_and_does_not_end_a_script(script, name):
  status, printed, message = script('find_module', name)
  assert (status, printed.strip()) == (0, '')
  assert f'found no folder of {name}' in message


def test_a_name_that_is_no_module_is_refused(refused):
  assert "'a-b' is not a module name" in refused('find_module', 'a-b')
