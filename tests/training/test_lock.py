"""One folder, one process."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest
import toy_run

from prompt_tuning.devices import hosts
from prompt_tuning.training import lock


def owner(**changes):
  return json.dumps({'host': hosts.name(), 'process': 10**8, 'started': '1', 'token': 'other', 'since': 'today',
                     'renewed': time.time()} | changes)


@pytest.fixture(params=['local', 'bucket'])
def place(request, tmp_path, store):
  """The address of a folder, and the path of its lock."""
  if request.param == 'bucket':
    return 'gs://bucket/run', store.folder / 'bucket/run/lock.json'
  return str(tmp_path / 'run'), tmp_path / 'run/lock.json'


def test_a_lock_names_host_and_process_while_it_is_held(place):
  folder, path = place
  with lock.held(folder), lock.held(folder):  # by the same thread once more
    found = json.loads(path.read_bytes())
    assert found['process'] == os.getpid() and found['host'].startswith(socket.gethostname())
    lock.check(folder)
  assert not path.exists()


def test_a_second_thread_is_refused_with_the_name_of_the_first(place):
  folder, errors = place[0], []

  def second():
    try:
      with lock.held(folder):
        pass
    except OSError as error:
      errors.append(str(error))

  with lock.held(folder):
    thread = threading.Thread(target=second)
    thread.start()
    thread.join()
    lock.check(folder)
  assert re.fullmatch(
    rf'model_dir={folder} is in use by process {os.getpid()} on {socket.gethostname()}, since 2.*\. A folder holds one '
    'run: wait until it ends, end it, or give another folder.', errors[0])


@pytest.mark.parametrize('left', [
  owner(), owner(process=os.getpid()), owner(process=os.getppid()), owner(host='far', renewed=time.time() - 301.0)])
def test_a_lock_whose_process_is_dead_is_taken_over_with_a_line(place, caplog, left):
  folder, path = place
  path.parent.mkdir(parents=True)
  path.write_text(left)
  with lock.held(folder):
    assert json.loads(path.read_bytes())['process'] == os.getpid()
  assert f'{folder}: took over the lock of process' in caplog.text


@pytest.mark.parametrize('left', ['', '{"pro', '[]', 'null', '{"process": "x"}', '[' * 10**5])
def test_a_damaged_lock_holds_nothing(place, left):
  folder, path = place
  path.parent.mkdir(parents=True)
  path.write_text(left)
  with lock.held(folder):
    assert json.loads(path.read_bytes())['process'] == os.getpid()


def test_a_lock_of_another_host_is_waited_for_until_it_is_renewed_or_stale(place, monkeypatch, caplog):
  folder, path = place
  path.parent.mkdir(parents=True)
  path.write_text(owner(host='far'))
  monkeypatch.setattr(lock.time, 'sleep', lambda seconds: path.write_text(owner(host='far')))
  with pytest.raises(OSError, match='is in use by process 100000000 on far, since today'), lock.held(folder):
    pass
  assert f'{folder} is locked by process 100000000 on far. Waiting until it renews the lock' in caplog.text
  monkeypatch.setattr(lock.time, 'sleep', lambda seconds: None)
  monkeypatch.setattr(lock, 'STALE', 0.05)
  with lock.held(folder):
    pass
  assert 'took over the lock of process 100000000 on far, which was not renewed for' in caplog.text


def test_in_a_bucket_a_running_process_of_this_host_keeps_its_lock(store):
  path = store.folder / 'bucket/run/lock.json'
  path.parent.mkdir()
  path.write_text(owner(process=os.getppid(), started=hosts.started(os.getppid())))
  with pytest.raises(OSError, match=rf'gs://bucket/run is in use by process {os.getppid()} on'), \
       lock.held('gs://bucket/run'):
    pass
  assert path.exists()


def test_a_lock_is_renewed_and_one_that_was_taken_over_is_lost(place, monkeypatch):
  folder, path = place
  monkeypatch.setattr(lock, '_RENEWED', 0.01)
  with pytest.raises(OSError, match=f'model_dir={folder} is no longer the folder of this run'), lock.held(folder):
    first = json.loads(path.read_bytes())['renewed']
    while json.loads(path.read_bytes() or b'{"renewed": 0}')['renewed'] <= first:
      time.sleep(0.01)
    path.unlink()
    path.write_text(owner())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
      time.sleep(0.01)
      lock.check(folder)
  assert json.loads(path.read_bytes())['token'] == 'other', 'it is not removed by its former owner'


def test_a_run_whose_folder_is_removed_or_moved_says_so(tmp_path):
  with pytest.raises(OSError, match=r'is no longer the folder of this run: its lock.json was removed'), \
       lock.held(str(tmp_path / 'run')):
    os.rename(tmp_path / 'run', tmp_path / 'moved')
  assert sorted(path.name for path in (tmp_path / 'moved').iterdir()) == ['lock.json']


def test_training_in_a_folder_in_use_is_refused_and_changes_nothing(tmp_path):
  holding = ("import fcntl, sys, time\nfile = open(sys.argv[1], 'w')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
             "print('held', flush=True)\ntime.sleep(60)")
  (tmp_path / 'run').mkdir()
  process = subprocess.Popen(['python3', '-c', holding, str(tmp_path / 'run/lock.json')], stdout=subprocess.PIPE)
  try:
    assert process.stdout.readline() == b'held\n'
    with pytest.raises(OSError, match=r'run is in use by another process. A folder holds one run'):
      toy_run.train(tmp_path / 'run')
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert [path.name for path in (tmp_path / 'run').iterdir()] == ['lock.json']
  with lock.held(str(tmp_path / 'run')):  # the system has released it
    pass
