"""Local files that are written whole: their temporaries, their modes, and processes and threads beside one another."""

import os
import stat
import subprocess
import sys
import threading

import pytest

from prompt_tuning.devices import hosts
from prompt_tuning.files import local, storage


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def dead_process():
  ended = subprocess.Popen(['true'])
  ended.wait()
  return ended.pid


def test_a_temporary_has_a_name_that_nobody_can_guess_and_follows_no_link(tmp_path):
  (tmp_path / 'precious').write_text('precious')
  for name in (f'file.tmp-{os.getpid()}', f'file.tmp-{local._host()}-{os.getpid()}-{"0" * 16}'):
    os.symlink(tmp_path / 'precious', tmp_path / name)
  found = set()
  for content in (b'a', b'b'):
    with storage.whole_file(str(tmp_path / 'file')) as temporary:
      found.add(temporary)
      open(temporary, 'wb').write(content)
  assert len(found) == 2
  assert (tmp_path / 'precious').read_text() == 'precious' and not (tmp_path / 'file').is_symlink()


def test_a_temporary_whose_name_is_taken_is_not_written(tmp_path, monkeypatch):
  monkeypatch.setattr('prompt_tuning.files.local.secrets.token_hex', lambda count: '0' * 16)
  name = f'file.tmp-{local._host()}-{os.getpid()}-{"0" * 16}'
  monkeypatch.setattr(local, '_remove_left', lambda folder, start: None)
  os.symlink(tmp_path / 'precious', tmp_path / name)
  with pytest.raises(OSError, match='file cannot be written: File exists'):
    storage.write_bytes(str(tmp_path / 'file'), b'mine')
  assert not (tmp_path / 'precious').exists()


def test_a_new_file_has_the_users_mode_and_a_replaced_one_keeps_its_own(tmp_path):
  path, before = tmp_path / 'file', os.umask(0o027)
  try:
    storage.write_bytes(str(path), b'')
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    with storage.whole_file(str(path)) as temporary:
      os.remove(temporary)
      os.close(os.open(temporary, os.O_CREAT, 0o600))  # as libraries do
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    with storage.whole_folder(str(tmp_path / 'folder')) as temporary:
      os.close(os.open(f'{temporary}/inside', os.O_CREAT, 0o600))
    assert stat.S_IMODE((tmp_path / 'folder/inside').stat().st_mode) == 0o640
  finally:
    os.umask(before)


def test_what_a_killed_process_left_is_removed_and_what_others_write_is_not(tmp_path):
  (tmp_path / 'below').mkdir()
  dead, live, here, other = dead_process(), os.getppid(), local._host(), '0123abcd'
  gone = [f'a.tmp-{dead}', f'below/a.tmp-{here}-{dead}-{"1" * 16}', f'a.tmp-{here}-{os.getpid()}-{"2" * 16}',
          f'old.tmp-{other}-{dead}-{"3" * 16}']
  kept = [f'a.tmp-{live}', f'a.tmp-{here}-{live}-{"4" * 16}', f'new.tmp-{other}-{dead}-{"5" * 16}', 'a.tmp', 'a.tmp-x']
  for name in gone + kept:
    (tmp_path / name).write_text('')
  os.utime(tmp_path / gone[-1], (0, 0))
  (tmp_path / f'checkpoint_3.tmp-{dead}').mkdir()  # of T5X
  with storage.whole_file(str(tmp_path / 'mine')) as temporary:
    open(temporary, 'w').close()
    storage.remove_left(str(tmp_path))
  found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*') if path.is_file())
  assert found == sorted([*kept, 'mine']) and (tmp_path / f'checkpoint_3.tmp-{dead}').is_dir()


def test_writing_a_file_again_removes_what_was_left_of_it(tmp_path):
  left = tmp_path / f'file.tmp-{local._host()}-{dead_process()}-{"1" * 16}'
  left.write_text('half')
  storage.write_bytes(str(tmp_path / 'file'), b'whole')
  assert names(tmp_path) == ['file']


def test_threads_write_the_same_file_and_different_ones_beside_each_other(tmp_path):
  before, errors = os.umask(0o022), []

  def write(number):
    try:
      for _ in range(8):
        storage.write_bytes(str(tmp_path / 'same'), b'x' * number)
        storage.write_bytes(str(tmp_path / f'own_{number}'), b'x' * number)
    except Exception as error:
      errors.append(error)

  try:
    threads = [threading.Thread(target=write, args=(number,)) for number in range(1, 5)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert os.umask(0o022) == 0o022 and not errors
  finally:
    os.umask(before)
  assert names(tmp_path) == ['own_1', 'own_2', 'own_3', 'own_4', 'same']
  assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o644}


def test_of_two_that_make_a_folder_the_second_is_told_so(tmp_path):
  with pytest.raises(FileExistsError, match='folder already exists and is never overwritten'), \
       storage.whole_folder(str(tmp_path / 'folder')) as second:
    with storage.whole_folder(str(tmp_path / 'folder')) as first:
      open(f'{first}/first', 'w').close()
    open(f'{second}/second', 'w').close()
  assert names(tmp_path) == ['folder'] and names(tmp_path / 'folder') == ['first']


def test_a_long_name_has_a_temporary_too(tmp_path):
  for name in ('x' * 255, 'ä' * 127):
    storage.write_bytes(str(tmp_path / name), b'')
  assert len(names(tmp_path)) == 2


def test_an_error_of_reading_another_file_meanwhile_is_not_one_of_writing(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'No such file or directory: .*absent'), \
       storage.whole_file(str(tmp_path / 'file')):
    open(tmp_path / 'absent').close()


@pytest.mark.parametrize(('path', 'answer'), [
  ('s3://bucket/run', 'only local paths and gs://BUCKET/NAME can. Give one of these'),
  ('https://host/run', 'only local paths and gs://BUCKET/NAME can'),
  ('gs:/bucket/run', r'Did you mean gs://bucket/run\?'),
  ('GS://bucket/run', r'Did you mean gs://bucket/run\?'),
  (' gs://bucket/run', r'Did you mean gs://bucket/run\?'),
  ('file:///tmp/run', r'Did you mean /tmp/run\?'),
  ('gs:///run', 'only local paths'), ('gs://', 'only local paths'),
  ('~/run', '~ was not replaced.*Write /home/me/run.'), ('~', 'Write /home/me.'),
  ('~nobody_here/run', 'Write the whole path.'),
  ('$HOME/run', r'\$ was not replaced.*Write /home/me/run.'), ('runs/${HOME}', 'was not replaced'),
  ('$NOT_SET/run', 'Write the whole path.'), ('gs://$BUCKET/run', 'Write the whole path.')])
def test_what_is_no_local_path_is_refused_and_makes_no_folder(tmp_path, monkeypatch, path, answer):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', '/home/me')
  for write in (storage.make_folder, storage.check_writable, lambda path: storage.write_bytes(path, b''),
                lambda path: storage.whole_folder(path).__enter__()):
    with pytest.raises(ValueError, match=f'cannot be written: .*{answer}'):
      write(path)
  assert names(tmp_path) == []


def test_names_with_odd_signs_are_local_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for path in ('a:b', 'cost$5', '~draft', 'x~/y', '10:30/z'):
    storage.write_bytes(path, b'')
    assert os.path.isfile(path)


def test_a_process_is_known_by_its_number_and_its_start():
  assert hosts.started(os.getpid()) == hosts.started(os.getpid()) and hosts.started(os.getppid()) is not None
  assert hosts.started(dead_process()) is None and hosts.started(2**70) is None
  zombie = subprocess.Popen(['true'], stdout=subprocess.PIPE)
  zombie.stdout.read()
  os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
  assert hosts.started(zombie.pid) is None
  zombie.wait()


def test_streams_that_were_closed_are_opened_so_that_no_file_gets_their_numbers(tmp_path):
  code = ('import os, sys\n'
          'from prompt_tuning.files import terminal\n'
          'terminal.open_streams()\n'
          f'file = open({str(tmp_path / "file")!r}, "w")\n'
          'assert file.fileno() > 2\n'
          'terminal.say("nowhere"), terminal.show("nowhere")\n'
          'os.write(2, b"by a library")')
  closing = ('import os, sys\nfor number in (1, 2):\n  os.close(number)\n'
             f'os.execv(sys.executable, [sys.executable, "-c", {code!r}])')
  done = subprocess.run([sys.executable, '-c', closing], check=False, capture_output=True)
  assert (done.returncode, done.stdout, done.stderr) == (0, b'', b'')
  assert (tmp_path / 'file').read_bytes() == b''
