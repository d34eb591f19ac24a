"""Files and folders are there complete, or not there."""

import pytest

from prompt_tuning import storage


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
  with full_disk(100), pytest.raises(OSError, match=rf'{path} cannot be written: File too large. What was there'):
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
  with pytest.raises(FileExistsError, match=r'exists already and is never overwritten. Remove it'), \
       storage.whole_folder(str(tmp_path / 'folder')):
    pass


def test_writing_to_an_object_store_is_a_clear_error():
  with pytest.raises(OSError, match=r'gs://bucket/file: writing to an object store is not supported yet. Give a'):
    storage.write_bytes('gs://bucket/file', b'')


def test_paths_are_joined_for_folders_and_addresses():
  assert storage.join('gs://bucket/a/', 'b', 'c') == 'gs://bucket/a/b/c'
  assert storage.join('/a', 'b') == '/a/b'
