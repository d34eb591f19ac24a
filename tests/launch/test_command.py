"""The command line: flags, help, and the errors for wrong flags."""

import subprocess
import sys
import time

import jax
import pytest

from prompt_tuning.devices import multihost
from prompt_tuning.programs import command

FILE = '--gin_file=a.gin'


@pytest.mark.parametrize('program', command.PROGRAMS)
def test_help_answers_within_a_second_and_loads_nothing_heavy(program):
  code = ('import runpy, sys\n'
          f'sys.argv = ["prompt_tuning.{program}", "--help"]\n'
          'try:\n'
          f'  runpy.run_module("prompt_tuning.{program}", run_name="__main__")\n'
          'finally:\n'
          '  print([m for m in ("jax", "numpy", "gin", "tensorflow", "absl") if m in sys.modules])')
  seconds = []
  for _ in range(3):  # the machine may be busy
    began = time.monotonic()
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    seconds.append(time.monotonic() - began)
  assert done.stdout.splitlines()[-1] == '[]'
  wanted = ('--gin_file', '--gin_search_paths', '--gin.NAME', '--dry_run', 'examples:')
  assert all(text in done.stdout for text in wanted)
  assert min(seconds) < 1


def test_the_installed_command_lists_its_subcommands(capsys):
  assert command.main(['--help']) == 0
  printed = capsys.readouterr().out
  assert all(name in printed for name in ('train', 'eval', 'infer'))


def test_an_unknown_subcommand_is_answered_with_the_nearest(capsys):
  assert command.main(['trian']) == 2
  assert "no subcommand 'trian'. Did you mean train" in capsys.readouterr().err


def test_overrides_keep_their_order_in_all_forms():
  flags = command.parse_flags(
    'train', [FILE, '--gin.A=1', '--gin_bindings=B=2', '--gin.C', '3', "--gin.s/d.E={'x': '='}"])
  assert flags.gin_bindings == ['A=1', 'B=2', 'C=3', "s/d.E={'x': '='}"]


def test_search_paths_are_a_list_and_empty_ones_are_dropped():
  assert command.parse_flags('eval', [FILE, '--gin_search_paths=/a,,b/..']).gin_search_paths == ['/a', 'b/..']


@pytest.mark.parametrize('argument', [
  '--tfds_data_dir=gs://b/c', '--seqio_additional_cache_dirs=/a,/b', '--process_count=1', '--process_index=0',
  '--nomultiprocess_gpu', '--multiprocess_gpu=false'])
def test_flags_of_existing_scripts_are_accepted(argument):
  command.parse_flags('train', [FILE, argument])


def test_parts_of_the_answers_are_refused():
  with pytest.raises(ValueError, match='--shard_id=3 asks for a part of the predictions'):
    command.parse_flags('infer', [FILE, '--shard_id=3'])


@pytest.mark.parametrize('given, missing', [
  (('10.0.0.1:1', None, 1), '--process_count is missing'), ((None, 4, 0), '--coordinator_address is missing'),
  ((None, None, 2), '--coordinator_address, --process_count are missing')])
def test_hosts_that_are_told_apart_in_part_only_are_refused(given, missing):
  with pytest.raises(ValueError, match=f'{missing}. Give all three, such as'):
    multihost.start(*given)


@pytest.mark.parametrize('argument, answer', [
  ('--PROMPT_FILE=/a/b.npy', r"""Write --gin\.PROMPT_FILE="'/a/b\.npy'"$"""),
  ('--TRAIN_STEPS=5', r'Write --gin\.TRAIN_STEPS=5$'),
  ('--utils.SaveCheckpointConfig.keep=5', r'write --gin\.utils\.SaveCheckpointConfig\.keep=5$'),
  ('--gin_fiel=a.gin', r'no flag --gin_fiel\. Did you mean gin_file'),
  ('--gin.MODEL_DIR', r'Write --gin\.MODEL_DIR=VALUE'),
  ('stray', "'stray' belongs to no flag"),
])
def test_a_wrong_argument_is_answered_with_the_right_form(argument, answer):
  with pytest.raises(ValueError, match=answer):
    command.parse_flags('eval', [FILE, argument])


def test_a_command_without_gin_files_is_answered_with_an_example():
  with pytest.raises(ValueError, match=r'No flags are given(.|\n)*prompt-tuning eval --prompt'):
    command.parse_flags('eval', [])


def test_wrong_input_ends_with_one_message_and_status_2(run):
  status, _, errors = run('train', '--gin_file=nowhere.gin')
  assert status == 2
  assert errors.strip().startswith('prompt-tuning train: nowhere.gin: there is no such gin file')
  assert 'Traceback' not in errors


@pytest.mark.parametrize(('error', 'status', 'said'), [
  (SystemExit(0), 1, 'prompt-tuning train: ended by SystemExit(0), which was raised here:'),
  (KeyboardInterrupt(), 130, 'interrupted. What was saved before is kept, and the same command resumes from it.'),
  (KeyboardInterrupt('Ctrl-C: saved at step 3.'), 130, '')])
def test_a_program_that_something_else_ends_says_so(monkeypatch, capsys, error, status, said):
  from prompt_tuning.programs import launch

  def end(program, flags):
    raise error

  monkeypatch.setattr(launch, 'run', end)
  assert command.run('train', [FILE]) == status
  printed = capsys.readouterr().err
  assert said in printed and bool(printed) == bool(said)


def test_a_preempted_run_ends_with_0(monkeypatch):
  from prompt_tuning.devices.preemption import Preempted
  from prompt_tuning.programs import launch

  def end(program, flags):
    raise Preempted(0)

  monkeypatch.setattr(launch, 'run', end)
  with pytest.raises(SystemExit) as ended:
    command.run('train', [FILE])
  assert ended.value.code == 0


def test_a_process_of_several_does_not_train_alone_if_jax_was_used_before(monkeypatch):
  jax.devices()
  monkeypatch.setenv('SLURM_NTASKS', '4')
  with pytest.raises(ValueError, match=r'SLURM_NTASKS=4 says that this run has several processes, but JAX was used'):
    multihost.start()
