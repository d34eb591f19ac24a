"""tpu_pod.sh prints and runs the right commands. `gcloud` is always a fake, so no test reaches a cloud."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys

import pytest
from runs_of_scripts import LENGTHS, RUN, SCRIPTS, wait_for

SETTINGS = ('NAME', 'ZONE', 'PROJECT', 'TYPE', 'VERSION', 'SPOT', 'PLAIN', 'WAIT_MINUTES', 'EXTRAS', 'WORKER',
            'GRACE_SECONDS', 'DRY_RUN')
GIVEN = {'NAME': 'pod', 'ZONE': 'us-west4-a', 'TYPE': 'v5litepod-16', 'VERSION': 'v2-alpha-tpuv5-lite'}
PLACE = ['pod', '--zone=us-west4-a']
# Records its arguments, one file per call. Commands for a worker run here, with worker/ as home.
GCLOUD = r'''#!/usr/bin/env bash
printf '%s\0' "$@" > "$RECORDS/$(ls "$RECORDS" | wc -l)"
case "$*" in
  *" describe "*) cat "$STATE" 2>/dev/null || exit 1 ;;
  *" create "*) echo ACTIVE > "$STATE" ;;
  *" scp "*) cp "$5" "$HOME/worker/${6#*:}" ;;
  *" ssh "*)
    for argument; do
      case "$argument" in --command=*) command="${argument#--command=}" ;; esac
    done
    command="${command//\'\/dev\//\'$HOME/}"  # the devices: never those of a TPU that is here
    command="${command//\/tmp\/libtpu/$HOME/libtpu}"
    HOME="$HOME/worker" exec bash -c "$command" ;;
esac
'''


class Pod:
  """tpu_pod.sh with a fake gcloud, in a folder."""

  def __init__(self, folder):
    self.folder = folder
    self.worker = folder / 'worker/prompt_tuning_pod'
    self.environment = {key: value for key, value in os.environ.items() if key not in SETTINGS} | {
      'PATH': f'{folder}/bin:{os.environ["PATH"]}', 'HOME': str(folder), 'TMPDIR': str(folder),
      'RECORDS': str(folder / 'records'), 'STATE': str(folder / 'state')}
    for each in ('bin', 'records', 'worker/prompt_tuning_pod/venv/bin'):
      (folder / each).mkdir(parents=True)
    self.program('gcloud', GCLOUD)

  def program(self, name, text):
    (self.folder / 'bin' / name).write_text(text)
    (self.folder / 'bin' / name).chmod(0o755)

  def __call__(self, *words, **settings):
    """Runs the script with these arguments and settings; returns exit status, output and errors."""
    done = subprocess.run(['bash', str(SCRIPTS / 'tpu_pod.sh'), *words], env=self.environment | settings,
                          cwd=self.folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr

  def calls(self):
    """Returns the arguments of each gcloud call, after `compute tpus`."""
    records = sorted((self.folder / 'records').iterdir(), key=lambda path: int(path.name))
    found = [path.read_text().split('\0')[:-1] for path in records]
    assert all(call[:2] == ['compute', 'tpus'] for call in found)
    return [call[2:] for call in found]


@pytest.fixture
def pod(tmp_path):
  yield (made := Pod(tmp_path))
  if (made.worker / 'run.pid').exists():  # a test failed before the run had ended
    with contextlib.suppress(ProcessLookupError):
      os.killpg(int((made.worker / 'run.pid').read_text()), signal.SIGKILL)


@pytest.mark.parametrize('words, expected', [
  (['create'], [['queued-resources', 'create', *PLACE, '--node-id=pod', '--accelerator-type=v5litepod-16',
                 '--runtime-version=v2-alpha-tpuv5-lite'],
                ['queued-resources', 'describe', *PLACE, '--format=value(state.state)']]),
  (['create', '--plain', '--spot', '--project', 'p', '--', '--network=n'],
   [['tpu-vm', 'create', *PLACE, '--project=p', '--accelerator-type=v5litepod-16', '--version=v2-alpha-tpuv5-lite',
     '--spot', '--network=n'],
    ['tpu-vm', 'describe', *PLACE, '--project=p', '--format=value(state)']]),
  (['delete'], [['queued-resources', 'delete', *PLACE, '--force']]),
  (['delete', '--plain', '--', '--quiet'], [['tpu-vm', 'delete', *PLACE, '--quiet']]),
])
def test_a_dry_run_prints_the_commands_and_runs_none(pod, words, expected):
  status, printed, errors = pod(words[0], '--dry_run', *words[1:], **GIVEN)
  assert (status, errors, pod.calls()) == (0, '', [])

  subprocess.run(['bash', '-euc', printed.replace('describe', 'list')], env=pod.environment, check=True)
  assert [[word.replace('list', 'describe') for word in call] for call in pod.calls()] == expected


@pytest.mark.parametrize('words, worker, function', [
  (['run', '--dry_run', 'echo', 'a'], 'all', 'start_here echo a'), (['logs', '--dry_run'], '0', 'follow_here'),
  (['logs', '--worker', '3', '--dry_run'], '3', 'follow_here'),
  (['stop', '--dry_run', '--grace_seconds=7'], 'all', 'stop_here 7'),
  (['install', '--dry_run', '--extras=tpu,metrics'], 'all', 'install_here tpu,metrics'),
])
def test_a_dry_run_prints_what_workers_would_do(pod, words, worker, function):
  status, printed, errors = pod(*words, **GIVEN)
  assert (status, errors, pod.calls()) == (0, '', [])
  assert f'gcloud compute tpus tpu-vm ssh pod --zone=us-west4-a --worker={worker} ' in printed
  assert printed.endswith(f"\n{function} ' \n")


def test_a_dry_run_needs_no_gcloud(pod):
  tools = pod.folder / 'tools'
  tools.mkdir()
  for name in ('bash', 'dirname', 'cat', 'tr'):
    (tools / name).symlink_to(shutil.which(name))
  for words in (['create'], ['install'], ['run', 'true'], ['logs'], ['stop'], ['delete']):
    assert pod(words[0], '--dry_run', *words[1:], PATH=str(tools), **GIVEN)[0] == 0
  status, _, errors = pod('logs', PATH=str(tools), **GIVEN)
  assert status == 2
  assert 'gcloud is not on the PATH. Install the Google Cloud CLI, or use --dry_run' in errors


@pytest.mark.parametrize('words, settings, message', [
  ([], GIVEN, 'no sub-command is given. Use one of: create install run logs stop delete.'),
  (['start'], GIVEN, 'there is no sub-command start. Use one of: create install run'),
  (['logs'], {'ZONE': 'a'}, 'NAME is not set. Give --name=..., or export NAME: the name of the slice.'),
  (['stop'], {'NAME': 'a'}, 'ZONE is not set. Give --zone=..., or export ZONE: its zone, such as us-west4-a.'),
  (['create'], {'NAME': 'a', 'ZONE': 'b'}, 'TYPE is not set.'),
  (['create'], {'NAME': 'a', 'ZONE': 'b', 'TYPE': 'c'}, 'VERSION is not set.'),
  (['run'], GIVEN, 'run has no command. Append it, such as: run python3 -m prompt_tuning.train'),
  (['run', '--gin_file=a'], GIVEN, 'there is no flag --gin_file=a.'),
  (['logs', '--worker'], GIVEN, '--worker has no value. Write --worker=VALUE.'),
  (['logs', '--worker=first'], GIVEN, 'WORKER is first. Use a number from 0, or all.'),
  (['stop', '--grace_seconds=1m'], GIVEN, 'GRACE_SECONDS is 1m. Use a whole number of seconds.'),
  (['stop', 'now'], GIVEN, 'stop does not take now.'),
])
def test_a_wrong_command_line_is_said_before_anything_runs(pod, words, settings, message):
  status, printed, errors = pod(*words, **settings)
  assert (status, printed, pod.calls()) == (2, '', [])
  assert errors.startswith(f'tpu_pod.sh: {message}')


def test_help_says_every_setting(pod):
  status, printed, _ = pod('--help')
  assert status == 0
  assert all(name in printed for name in SETTINGS)


def test_create_asks_once_and_waits_until_the_slice_is_ready(pod):
  status, printed, _ = pod('create', **GIVEN)
  assert (status, printed) == (0, 'pod is ready. Next: install.\n')
  assert [call[1] for call in pod.calls()] == ['describe', 'create', 'describe']

  pod('create', **GIVEN)
  assert [call[1] for call in pod.calls()[3:]] == ['describe', 'describe'], 'what is there is not asked for again'


@pytest.mark.parametrize('state, status, message', [
  ('WAITING_FOR_RESOURCES', 1, 'still WAITING_FOR_RESOURCES after 0 minutes. It keeps its place in the queue'),
  ('FAILED', 2, 'pod is FAILED: it was refused or preempted. Run delete, then create again'),
  ('SUSPENDED', 2, 'To see the reason: gcloud compute tpus queued-resources describe pod --zone=us-west4-a'),
])
def test_create_says_what_to_do_about_a_slice_that_does_not_come(pod, state, status, message):
  (pod.folder / 'state').write_text(state)
  found, _, errors = pod('create', WAIT_MINUTES='0', **GIVEN)
  assert found == status
  assert message in errors


def test_install_copies_the_clone_and_installs_it_with_the_extras(pod):
  pod.program('python3', '#!/usr/bin/env bash\necho "$*" >> "$RECORDS/../python"\n')
  installed = pod.worker / 'venv/bin/prompt-tuning'
  installed.write_text('#!/bin/sh\n')
  installed.chmod(0o755)
  (pod.worker / 'prompt_tuning').mkdir()
  (pod.worker / 'prompt_tuning/gone.py').touch()
  status, printed, errors = pod('install', '--extras=tpu,metrics', **GIVEN)
  assert status == 0, errors
  assert printed.endswith(': installed.\n')
  assert (pod.worker / 'pyproject.toml').exists() and (pod.worker / 'prompt_tuning/train.py').exists()
  assert not (pod.worker / 'prompt_tuning/gone.py').exists()
  assert (pod.folder / 'python').read_text().endswith(f' {pod.worker}[tpu,metrics]\n')


@pytest.mark.parametrize('word', [
  LENGTHS, 'a"b', '$HOME `date` $(date)', "it's \\' \\\\", 'a\nb  c', '', '*', '~', 'ä&|;<>'])
def test_a_command_arrives_as_it_was_given(pod, word):
  status, _, errors = pod('run', sys.executable, '-c', 'import sys; open("got", "w").write(sys.argv[1])', word, **GIVEN)
  assert status == 0, errors
  wait_for((pod.worker / 'run.status').exists)
  assert (pod.worker / 'got').read_text() == word
  assert (pod.worker / 'run.status').read_text() == '0\n'


def test_what_a_dry_run_prints_starts_the_same_run(pod):
  _, printed, _ = pod('run', '--dry_run', sys.executable, '-c', 'import sys; open("got", "w").write(sys.argv[1])',
                      LENGTHS, **GIVEN)
  subprocess.run(['bash', '-euc', printed], env=pod.environment, check=True)
  wait_for((pod.worker / 'run.status').exists)
  assert (pod.worker / 'got').read_text() == LENGTHS
  assert [call[:5] for call in pod.calls()] == [['tpu-vm', 'ssh', *PLACE, '--worker=all']]


def test_logs_show_what_a_run_printed_and_exit_with_its_status(pod):
  pod('run', 'bash', '-c', 'echo loss 3; echo warned >&2; exit 7', **GIVEN)
  status, printed, _ = pod('logs', **GIVEN)
  assert status == 7
  assert printed.startswith('loss 3\nwarned\n')
  assert printed.endswith('the run ended with exit status 7.\n')


def test_a_second_run_waits_for_the_first_and_stop_lets_it_save(pod):
  pod('run', sys.executable, '-c', RUN, LENGTHS, **GIVEN)
  wait_for((pod.worker / 'arguments').exists)
  status, _, errors = pod('run', 'touch', 'second', **GIVEN)
  assert status == 1
  assert 'a run is in progress. Follow it with logs, or end it with stop.' in errors

  status, printed, _ = pod('stop', **GIVEN)
  assert (status, (pod.worker / 'saved').exists(), (pod.worker / 'second').exists()) == (0, True, False)
  assert printed.endswith('ended, with exit status 0.\n')
  status, printed, _ = pod('stop', **GIVEN)
  assert (status, printed.endswith('nothing was running.\n')) == (0, True)


def test_stop_waits_for_a_program_that_a_script_started(pod):
  slow = RUN.replace("open('saved'", "time.sleep(1.5); open('saved'")
  (pod.folder / 'slow.py').write_text(slow)
  pod('run', 'bash', '-c', f'{sys.executable} {pod.folder}/slow.py; true', **GIVEN)
  wait_for((pod.worker / 'arguments').exists)
  assert pod('stop', **GIVEN)[0] == 0
  assert (pod.worker / 'saved').exists()


def test_stop_kills_python_that_holds_the_tpu_and_nothing_else(pod):
  device, lock = pod.folder / 'accel0', pod.folder / 'libtpu_lockfile'
  lock.touch()
  device.touch()
  deaf = 'import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)'
  with open(device) as held, \
       subprocess.Popen([sys.executable, '-c', deaf], stdin=held, stdout=subprocess.PIPE) as left, \
       subprocess.Popen(['sleep', '60'], stdin=held) as other, \
       subprocess.Popen([sys.executable, '-c', deaf], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as elsewhere:
    try:
      left.stdout.readline(), elsewhere.stdout.readline()
      held.close()  # this process must hold nothing
      status, _, errors = pod('stop', '--grace_seconds=1', **GIVEN)
      assert left.wait(timeout=10) == -signal.SIGKILL
      assert (other.poll(), elsewhere.poll()) == (None, None)
    finally:
      for each in (left, other, elsewhere):
        each.kill()
  assert status == 1
  assert f'not ended within 1 s, and killed: {left.pid}' in errors
  assert not lock.exists()


def test_stop_sends_one_signal_to_a_run_that_holds_the_tpu(pod):  # a second SIGTERM would end it before it has saved
  device = pod.folder / 'accel0'
  device.touch()
  pod('run', sys.executable, '-c', f'held = open({str(device)!r})' + RUN.replace('save)', 'signal.SIG_IGN)'), **GIVEN)
  wait_for((pod.worker / 'arguments').exists)
  status, _, errors = pod('stop', '--grace_seconds=0', **GIVEN)
  signalled = errors.rpartition('killed: ')[2].split()
  assert (status, len(signalled)) == (1, 2), 'bash, which keeps the status, and python'
  assert len(set(signalled)) == 2


def test_a_number_that_another_program_has_now_is_left_alone(pod):
  with subprocess.Popen(['sleep', '60'], start_new_session=True) as other:
    try:
      (pod.worker / 'run.pid').write_text(f'{other.pid}\n')
      status, printed, _ = pod('stop', **GIVEN)
      assert (status, other.poll()) == (0, None)
      assert printed.endswith('nothing was running.\n')
    finally:
      (pod.worker / 'run.pid').unlink()
      other.kill()
