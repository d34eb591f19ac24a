import errno
import hashlib
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning.checkpoints.state import read_state, write_state

ARRAYS = {
  'encoder/prompt/prompt/prompt': np.arange(12, dtype=np.float32).reshape(3, 4),
  'moments/v': np.array([[1.5, -2.0]], jnp.bfloat16),
  'step': np.array(7, np.int32),
  'empty': np.zeros((0, 5), np.uint8),
}
METADATA = {
  'step': 7, 'best': {'accuracy': 0.1}, 'tasks': ['sort', 'add'], 'text': 'häß "quoted"', 'worst': float('inf')}


@pytest.fixture
def path(tmp_path):
  path = str(tmp_path / 'state.safetensors')
  write_state(path, ARRAYS, METADATA)
  return path


def assert_same(found, wanted):
  assert found.keys() == wanted.keys()
  for name in wanted:
    assert found[name].dtype == wanted[name].dtype, name
    np.testing.assert_array_equal(found[name], wanted[name], strict=True)


def test_what_is_written_is_read_back_in_type_shape_and_value(path):
  arrays, metadata = read_state(path)
  assert_same(arrays, ARRAYS)
  assert metadata == METADATA


def test_jax_arrays_strided_arrays_and_other_byte_orders_keep_their_values(tmp_path):
  path = str(tmp_path / 'state')
  grid = np.arange(6, dtype=np.float32).reshape(2, 3)
  write_state(path, {'jax': jnp.asarray(grid), 'transposed': grid.T, 'every other': grid[:, ::2],
                     'big': grid.astype('>f4')}, {})
  arrays, _ = read_state(path)
  assert_same(arrays, {'jax': grid, 'transposed': grid.T, 'every other': grid[:, ::2], 'big': grid})


def test_equal_states_are_equal_files(path, tmp_path):
  write_state(str(tmp_path / 'again'), dict(reversed(ARRAYS.items())), METADATA)
  assert (tmp_path / 'again').read_bytes() == (tmp_path / 'state.safetensors').read_bytes()


def test_the_file_is_plain_safetensors_for_other_programs(path):
  with safetensors.safe_open(path, framework='numpy') as file:
    np.testing.assert_array_equal(file.get_tensor('encoder/prompt/prompt/prompt'),
                                  ARRAYS['encoder/prompt/prompt/prompt'])


def test_no_flipped_bit_anywhere_in_the_file_changes_what_is_read(path, tmp_path):
  content = (tmp_path / 'state.safetensors').read_bytes()
  damaged = tmp_path / 'damaged'
  errors = 0
  for place in range(len(content)):
    flipped = bytearray(content)
    flipped[place] ^= 1 << place % 8
    damaged.write_bytes(flipped)
    try:
      arrays, metadata = read_state(str(damaged))
    except ValueError as error:
      assert str(damaged) in str(error)
      errors += 1
    else:  # a space that JSON ignores
      assert_same(arrays, ARRAYS)
      assert metadata == METADATA
  assert errors > 0.95 * len(content)


def test_a_changed_array_is_named(path, tmp_path):
  content = bytearray((tmp_path / 'state.safetensors').read_bytes())
  place = bytes(content).index(ARRAYS['encoder/prompt/prompt/prompt'].tobytes())
  content[place + 5] ^= 4
  (tmp_path / 'state.safetensors').write_bytes(content)
  with pytest.raises(ValueError, match=r'state.safetensors is damaged: the array encoder/prompt/prompt/prompt has'):
    read_state(path)


@pytest.mark.parametrize('length', [0, 4, 8, 100, -1])
def test_a_truncated_file_is_an_error(path, tmp_path, length):
  content = (tmp_path / 'state.safetensors').read_bytes()
  (tmp_path / 'state.safetensors').write_bytes(content[:length])
  with pytest.raises(ValueError, match=r'state.safetensors is truncated or not a safetensors file'):
    read_state(path)


def test_safetensors_without_digests_are_an_error(tmp_path):
  safetensors.numpy.save_file({'x': np.ones(2)}, tmp_path / 'foreign')
  with pytest.raises(ValueError, match='foreign is a safetensors file without digests'):
    read_state(str(tmp_path / 'foreign'))


def test_a_newer_version_of_the_format_is_an_error(tmp_path):
  text = json.dumps({'version': 2, 'digests': {}, 'metadata': {}})
  entry = f'{hashlib.sha256(text.encode()).hexdigest()} {text}'
  safetensors.numpy.save_file({}, tmp_path / 'newer', metadata={'state': entry})
  with pytest.raises(ValueError, match='newer has version 2 of the state format; this package reads 1'):
    read_state(str(tmp_path / 'newer'))


def test_an_absent_file_is_an_error_that_names_it(tmp_path):
  with pytest.raises(FileNotFoundError, match='absent'):
    read_state(str(tmp_path / 'absent'))


def test_objects_and_text_are_refused(tmp_path):
  with pytest.raises(ValueError, match='cannot hold names: its type is object'):
    write_state(str(tmp_path / 'x'), {'names': np.array(['a', None])}, {})
  with pytest.raises(ValueError, match=r'cannot hold this metadata: .*ndarray is not JSON'):
    write_state(str(tmp_path / 'x'), {}, {'loss': np.ones(2)})
  assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_state_and_no_temporary(path, tmp_path, full_disk):
  with full_disk(50_000), pytest.raises(OSError, match=r'state.safetensors cannot be written: .*Free') as caught:
    write_state(path, {'large': np.ones(100_000)}, {})
  assert caught.value.errno == errno.EFBIG
  assert os.listdir(tmp_path) == ['state.safetensors']
  assert_same(read_state(path)[0], ARRAYS)


def test_an_unwritable_place_is_an_error_that_names_it(tmp_path):
  (tmp_path / 'file').write_text('not a folder')
  with pytest.raises(OSError, match=r'file/state cannot be written: (Not a directory|File exists)'):
    write_state(str(tmp_path / 'file' / 'state'), ARRAYS, {})


def test_the_metadata_is_readable_without_this_package(path):
  with safetensors.safe_open(path, framework='numpy') as file:
    _, _, text = file.metadata()['state'].partition(' ')
  assert json.loads(text)['metadata'] == METADATA
