"""Files and folders are either complete or absent."""

import os
import sys

import pytest

from prompt_tuning.evaluation import saved
from prompt_tuning.files import storage


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced_whole(tmp_path):
  path = tmp_path / 'new/folder/file'
  for content in (b'first', b'second'):
    storage.write_bytes(str(path), content)
    assert storage.read_bytes(str(path)) == content
  assert names(path.parent) == ['file']


def test_a_file_whose_writing_fails_is_as_it_was(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b'old')
  with pytest.raises(RuntimeError), storage.whole_file(str(path)) as temporary:
    open(temporary, 'wb').write(b'half')
    raise RuntimeError
  assert path.read_bytes() == b'old' and names(tmp_path) == ['file']


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path, full_disk):
  path = tmp_path / 'file'
  path.write_bytes(b'old')
  with full_disk(100), pytest.raises(OSError, match=rf'{path} cannot be written: File too large. Existing content'):
    storage.write_bytes(str(path), b'x' * 1000)
  assert path.read_bytes() == b'old' and names(tmp_path) == ['file']


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
  with pytest.raises(RuntimeError), storage.whole_folder(str(tmp_path / 'folder')) as temporary:
    open(f'{temporary}/half', 'w').close()
    raise RuntimeError
  assert names(tmp_path) == []
  with storage.whole_folder(str(tmp_path / 'folder')) as temporary:
    open(f'{temporary}/whole', 'w').close()
  assert names(tmp_path / 'folder') == ['whole']
  with pytest.raises(FileExistsError, match=r'already exists and is never overwritten. Remove it'), \
       storage.whole_folder(str(tmp_path / 'folder')):
    pass


def test_paths_are_joined_for_folders_and_addresses():
  assert storage.join('gs://bucket/a/', 'b', 'c') == 'gs://bucket/a/b/c'
  assert storage.join('/a', 'b') == '/a/b'


def test_an_object_is_put_whole_and_replaced(store):
  for size in (0, 5, 6 << 20):  # the last one in several requests
    content = bytes(range(256)) * (size // 256) + b'x' * (size % 256)
    storage.write_bytes('gs://bucket/a/[file] 1', content)
    assert storage.read_bytes('gs://bucket/a/[file] 1') == content
    assert store.described['gs://bucket/a/[file] 1']['cacheControl'] == 'no-store'
  assert names(store.folder / 'bucket/a') == ['[file] 1']
  assert storage.exists('gs://bucket/a/[file] 1') and not storage.exists('gs://bucket/a')


@pytest.mark.parametrize('status, kind, message', [
  (403, PermissionError, r'gs://bucket/a cannot be written: the object store refused it \(Forbidden: .*The test says '
                         r'403.\). Log in with `gcloud auth application-default login` as a user who may list'),
  (401, PermissionError, r'gs://bucket/a cannot be written: the object store refused it \(The test says 401., 401\)'),
  (503, OSError, r'gs://bucket/a cannot be written: the object store failed, also on retries \(The test says 503'
                 r'., 503\). Existing objects are unchanged. Try again when it can be reached'),
  (404, FileNotFoundError, r'gs://bucket/a cannot be written: there is no such object, or no bucket bucket. Give')])
def test_a_put_that_fails_leaves_the_old_object_and_says_so(store, status, kind, message):
  storage.write_bytes('gs://bucket/a', b'old')
  store.failures.append(('POST', status))
  with pytest.raises(kind, match=message):
    storage.write_bytes('gs://bucket/a', b'new')
  assert storage.read_bytes('gs://bucket/a') == b'old'


def test_a_large_object_that_breaks_off_leaves_the_old_one(store):
  storage.write_bytes('gs://bucket/a', b'old')
  store.before = lambda request: store.asked.count('POST bucket/a') > 2 and store.failures.append(('POST', 503))
  with pytest.raises(OSError, match='gs://bucket/a cannot be written: the object store failed, also on retries'):
    storage.write_bytes('gs://bucket/a', bytes(6 << 20))  # announced, then sent
  assert storage.read_bytes('gs://bucket/a') == b'old'


def test_a_failure_that_passes_is_not_seen(store):
  store.failures += [('POST', 503), ('POST', 429)]
  store.before = lambda request: store.asked.count(request) > 2 and store.failures.clear()
  storage.write_bytes('gs://bucket/a', b'new')
  assert store.asked == ['POST bucket/a'] * 3 and storage.read_bytes('gs://bucket/a') == b'new'


def test_an_object_whose_making_fails_is_not_put(store):
  with pytest.raises(RuntimeError), storage.whole_file('gs://bucket/a') as temporary:
    open(temporary, 'wb').write(b'half')
    raise RuntimeError
  assert store.asked == []


@pytest.mark.parametrize('local', [True, False])
def test_a_folder_is_listed_and_removed_with_all_in_it(store, tmp_path, local):
  root = str(tmp_path) if local else 'gs://bucket'
  for name in ('run/b', 'run/a/1', 'run/a/2/3', 'run/a/4', 'run/a b', 'run/c', 'runs'):
    storage.write_bytes(storage.join(root, name), b'')
  assert storage.list_folder(storage.join(root, 'run')) == ['a', 'a b', 'b', 'c']
  assert storage.list_folder(storage.join(root, 'run/')) == ['a', 'a b', 'b', 'c']
  assert storage.list_folder(storage.join(root, 'absent')) == storage.list_folder(storage.join(root, 'runs')) == []
  storage.remove_tree(storage.join(root, 'run/a'))
  assert storage.list_folder(storage.join(root, 'run')) == ['a b', 'b', 'c']
  storage.remove_tree(storage.join(root, 'run'))
  assert {'runs', 'run'} & set(storage.list_folder(root)) == {'runs'}
  storage.remove_tree(storage.join(root, 'run'))  # it does not exist


def test_what_cannot_be_removed_stays_and_is_told(store, caplog):
  storage.write_bytes('gs://bucket/run/a', b'')
  store.failures.append(('DELETE', 403))
  storage.remove_tree('gs://bucket/run')
  assert storage.list_folder('gs://bucket/run') == ['a']
  assert 'gs://bucket/run/a cannot be removed: the object store refused it' in caplog.text


def test_what_not_everyone_may_read_is_read_by_the_account(store):
  store.public = False
  storage.write_bytes('gs://bucket/a', b'mine')
  assert storage.read_bytes('gs://bucket/a') == b'mine'
  assert storage.exists('gs://bucket/a') and not storage.exists('gs://bucket/b')
  with pytest.raises(FileNotFoundError, match='gs://bucket/b cannot be read: there is no such object'):
    storage.read_bytes('gs://bucket/b')


def test_without_gcsfs_public_objects_are_read_and_nothing_is_written(store, monkeypatch):
  (store.folder / 'bucket/a').write_bytes(b'there')
  for name in ('gcsfs', 'gcsfs.core'):
    monkeypatch.setitem(sys.modules, name, None)
  assert storage.read_bytes('gs://bucket/a') == b'there' and not storage.exists('gs://bucket/b')
  for change in (storage.write_bytes, lambda path, _: storage.check_writable(path)):
    with pytest.raises(ImportError, match=r'gs://bucket/b/?: writing to gs://.* needs gcsfs: `pip install '):
      change('gs://bucket/b', b'')
  with pytest.raises(FileNotFoundError, match='gs://bucket/b: there is no such object'):
    saved.load_trained('gs://bucket/b')
  store.public = False
  for read in (storage.read_bytes, storage.exists):
    with pytest.raises(OSError, match=r"answered 401 .* `pip install '\.\[gcs\]'`, or copy the object"):
      read('gs://bucket/a')


def test_a_store_that_cannot_be_reached_is_a_clear_error(store, monkeypatch):
  monkeypatch.setenv('STORAGE_EMULATOR_HOST', '127.0.0.1:1')
  with pytest.raises(ConnectionError, match=r'gs://bucket/a: the object store cannot be reached .*Copy the object'):
    storage.read_bytes('gs://bucket/a')
  for call, done in ((storage.list_folder, 'listed'),
                     (lambda path: storage.write_bytes(path, b''), 'written')):
    with pytest.raises(OSError, match=rf'gs://bucket/a/? cannot be {done}: the object store failed, also on retries'):
      call('gs://bucket/a')


def test_a_local_folder_grows_in_its_place(tmp_path):
  growing = storage.GrowingFolder(str(tmp_path))
  with growing.open('lines') as file:
    file.write('one\n')
  growing.close()
  assert growing.path == str(tmp_path) and names(tmp_path) == ['lines']


def test_files_grow_in_a_bucket_by_being_put_whole(store):
  put = lambda: storage.read_bytes('gs://bucket/run/lines')
  for line in ('one\n', 'two\n'):  # the second resumes after the first
    growing = storage.GrowingFolder('gs://bucket/run/')
    with growing.open('lines') as file:
      before = put() if line == 'two\n' else b''
      file.write(line)
      file.flush()
      growing.put()
      assert put() == before + line.encode()
      file.write('more\n')
      file.flush()
      storage.put_grown('gs://bucket/run')
      assert put() == before + line.encode() + b'more\n'
      asked = len(store.asked)
      growing.put()  # nothing has changed
      assert len(store.asked) == asked
    os.makedirs(f'{growing.path}/train')
    open(f'{growing.path}/train/events', 'w').close()
    growing.close()
    assert not os.path.exists(growing.path)
  assert put() == b'one\nmore\ntwo\nmore\n' and storage.list_folder('gs://bucket/run') == ['lines', 'train']
  storage.put_grown('gs://bucket/run')  # no longer written


def test_a_folder_that_must_be_whole_is_not_written_to_an_object_store():
  with pytest.raises(OSError, match=r'gs://bucket/model: writing a whole folder to an object store'), \
       storage.whole_folder('gs://bucket/model'):
    pass


@pytest.mark.parametrize('path', ['/dev/null', '/dev/stdout', '/proc/self/fd/1', 'folder', 'folder/', 'new/', 'pipe'])
def test_what_is_no_file_is_not_replaced_by_one(tmp_path, monkeypatch, path):
  monkeypatch.chdir(tmp_path)
  os.mkdir('folder')
  os.mkfifo('pipe')
  before = os.lstat(path) if os.path.lexists(path) else None
  for write in (storage.check_file, lambda name: storage.write_bytes(name, b'')):
    with pytest.raises(OSError, match=r'is not a file, and is left|is a folder. Give a file|cannot be written'):
      write(path)
  assert before is None or os.lstat(path).st_ino == before.st_ino
  assert sorted(os.listdir()) == ['folder', 'pipe'] or path == 'new/'
  storage.check_file('folder/new/file')
  assert os.listdir('folder') == []
