"""A gin file is code: what files from elsewhere may import, what is logged, and where files end in a message."""

import logging
import os
import pathlib
import subprocess
import sys

import pytest

from prompt_tuning.files import storage
from prompt_tuning.programs import command, current_folder, gin_files

DYNAMIC = 'from __gin__ import dynamic_registration\n'


@pytest.fixture
def bucket(monkeypatch):
  """Files under gs://bucket, name -> text."""
  texts = {}
  read, exists = storage.read_bytes, storage.exists
  monkeypatch.setattr(storage, 'read_bytes', lambda path: (
    texts[path.removeprefix('gs://bucket/')].encode() if path.startswith('gs://') else read(path)))
  monkeypatch.setattr(storage, 'exists', lambda path: (
    path.removeprefix('gs://bucket/') in texts if path.startswith('gs://') else exists(path)))
  return texts


@pytest.fixture
def harmless(tmp_path, monkeypatch):
  """A module of the user's own, which writes a file when it is imported."""
  (tmp_path / 'harmless_tasks.py').write_text(
    f'import os, pathlib\npathlib.Path({str(tmp_path / "ran")!r}).touch()\ndef value(): return 7\n')
  monkeypatch.syspath_prepend(str(tmp_path))
  yield tmp_path / 'ran'
  sys.modules.pop('harmless_tasks', None)


@pytest.mark.parametrize('text', [
  'import harmless_tasks\n', DYNAMIC + 'import harmless_tasks\nRANDOM_SEED = @harmless_tasks.value()\n',
  '  import harmless_tasks\n', 'from harmless_tasks import value\n', 'import harmless_tasks as seqio\n'])
def test_a_file_from_elsewhere_imports_no_module_that_the_command_does_not_name(described, bucket, harmless, text):
  bucket['a.gin'] = text
  with pytest.raises(ValueError, match=r'gs://bucket/a.gin:\d: imports harmless_tasks.* --gin_allow_imports'):
    described('train', files=['gs://bucket/a.gin'])
  assert not harmless.exists()


@pytest.mark.parametrize('reached', ['files.storage.os.getpid', 'files.storage.re.escape'])
def test_a_file_from_elsewhere_reaches_no_other_module_through_one_that_it_may_import(described, bucket, reached):
  bucket['a.gin'] = DYNAMIC + f'from prompt_tuning import files\nimport prompt_tuning.files.storage\nX = @{reached}()\n'
  with pytest.raises(ValueError, match=r'gs://bucket/a.gin: imports (os|posix|re)\. A gin file is code'):
    described('train', files=['gs://bucket/a.gin'])


def test_what_a_file_from_elsewhere_includes_is_from_elsewhere_too(described, bucket, harmless, tmp_path):
  (tmp_path / 'b.gin').write_text('import harmless_tasks\n')
  bucket['a.gin'] = f"include '{tmp_path}/b.gin'\n"
  with pytest.raises(ValueError, match=r'b.gin:1: imports harmless_tasks'):
    described('train', files=['gs://bucket/a.gin'])


def test_a_task_module_that_a_file_from_elsewhere_sets_is_an_import(described, bucket, harmless):
  bucket['a.gin'] = "MIXTURE_OR_TASK_MODULE = 'harmless_tasks'\n"
  with pytest.raises(ValueError, match=r'gs://bucket/a.gin: imports harmless_tasks'):
    described('train', '--gin_file=gs://bucket/a.gin')
  run = described('train', '--gin_file=gs://bucket/a.gin', "--gin.MIXTURE_OR_TASK_MODULE='harmless_tasks'")
  assert run.imports == ('harmless_tasks',)


@pytest.mark.parametrize('allowed', [['--gin_allow_imports'], ["--gin.MIXTURE_OR_TASK_MODULE='harmless_tasks'"]])
def test_the_command_allows_it(described, bucket, harmless, allowed, caplog):
  bucket['a.gin'] = 'import harmless_tasks\n'
  with caplog.at_level(logging.WARNING):
    described('train', *allowed, files=['gs://bucket/a.gin'])
  assert harmless.exists()
  assert 'gs://bucket/a.gin:1 imports harmless_tasks, whose code runs: ' in caplog.text


def test_a_local_file_imports_what_it_likes_and_that_is_logged(described, harmless, tmp_path, caplog):
  (tmp_path / 'a.gin').write_text('import seqio\nimport harmless_tasks\n')
  with caplog.at_level(logging.WARNING):
    described('train', files=[f'{tmp_path}/a.gin'])
  assert f'{tmp_path}/a.gin:2 imports harmless_tasks, whose code runs: {tmp_path}/harmless_tasks.py' in caplog.text
  assert len(caplog.records) == 1


@pytest.mark.parametrize(('content', 'message'), [
  ('X = 1\n# größe\n'.encode('latin-1'), r'user.gin:2: not UTF-8'),
  (b'RANDOM_SEED = ' + b'[' * 3000, r'user.gin'),
  (b'A = %B\nB = %A\nRANDOM_SEED = %A\n', r'user.gin: the macros (A → B → A|B → A → B) refer to one another'),
  (b'A = %A\nRANDOM_SEED = %A\n', r'user.gin: the macros A → A refer to one another'),
  (b'import a_module_that_is_absent\n', r"user.gin:1: No module named 'a_module_that_is_absent'")])
def test_a_file_that_cannot_be_read_is_named(described, tmp_path, content, message):
  (tmp_path / 'user.gin').write_bytes(content)
  with pytest.raises((ValueError, ImportError), match=message):
    described('train', files=[f'{tmp_path}/user.gin'])


def test_messages_of_the_programs_carry_no_control_characters(run, tmp_path):
  (tmp_path / 'user.gin').write_text('X = \x1b[2J\x07forged\n')
  status, _, errors = run('train', f'--gin_file={tmp_path}/user.gin')
  assert status == 2 and errors.replace('\n', '').isprintable() and 'user.gin' in errors


def test_an_argument_that_is_not_utf_8_is_an_error_that_shows_it():
  with pytest.raises(ValueError, match=r"The argument '--data=a\\udcff' is not UTF-8"):
    command.parse_flags('train', ['--data=a\udcff'])


def test_blank_lines_cost_no_time(tmp_path):
  (tmp_path / 'a.gin').write_text('X = 1\n' + '\n' * 100_000 + '  # %Y\nY = 2\n')
  library = gin_files.Library()
  assert library.open(f'{tmp_path}/a.gin').read().count('\n') == 100_003
  assert library.macros() == set()


def test_files_of_the_current_folder_stand_in_for_no_module(tmp_path, monkeypatch):
  for name in ('argparse', 'tomllib', 'difflib', 'msgspec'):
    (tmp_path / f'{name}.py').write_text('raise SystemExit("shadowed")\n')
  root = str(pathlib.Path(__file__).parents[2])
  done = subprocess.run([sys.executable, '-m', 'prompt_tuning.train', '--help'], cwd=tmp_path, capture_output=True,
                        text=True, env={**os.environ, 'PYTHONPATH': root})
  assert done.returncode == 0, done.stderr
  monkeypatch.setenv('PYTHONPATH', f'{root}:named')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', ['', str(tmp_path), 'named', root])
  current_folder.put_last()
  assert sys.path == ['named', root, str(tmp_path)]
