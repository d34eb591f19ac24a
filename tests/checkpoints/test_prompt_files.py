import io
import os

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.checkpoints.prompt_files import read_prompt, write_numpy_prompt
from prompt_tuning.checkpoints.state import write_state

PROMPT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def numpy_bytes(array, **options):
  file = io.BytesIO()
  np.lib.format.write_array(file, array, **options)
  return file.getvalue()


def test_published_prompts_are_read(shared):
  for task in ('sst2', 'mrpc', 'rte'):
    path = shared / 'released_prompts' / f'{task}.npy'
    prompt = read_prompt(str(path))
    assert prompt.dtype == np.float32
    np.testing.assert_array_equal(prompt, np.load(path), strict=True)


def test_a_prompt_survives_writing_under_a_name_without_ending(tmp_path):
  path = tmp_path / 'numpy_checkpoints' / 'checkpoint_7' / 'encoder.prompt.prompt.prompt'
  write_numpy_prompt(str(path), jnp.asarray(PROMPT))
  assert os.listdir(path.parent) == ['encoder.prompt.prompt.prompt']
  np.testing.assert_array_equal(read_prompt(str(path)), PROMPT, strict=True)
  np.testing.assert_array_equal(np.load(path), PROMPT, strict=True)


@pytest.mark.parametrize('array', [
  PROMPT.astype(np.float64), PROMPT.astype(np.float16), PROMPT.astype('>f4'), np.asfortranarray(PROMPT),
  PROMPT.astype(jnp.bfloat16)], ids=['float64', 'float16', 'big-endian', 'column-major', 'bfloat16'])
def test_other_floating_types_and_orders_become_float32(tmp_path, array):
  (tmp_path / 'prompt.npy').write_bytes(numpy_bytes(array))
  np.testing.assert_array_equal(read_prompt(str(tmp_path / 'prompt.npy')), array.astype(np.float32), strict=True)


@pytest.mark.parametrize('version', [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_numpy_format_is_read(tmp_path, version):
  (tmp_path / 'prompt').write_bytes(numpy_bytes(PROMPT, version=version))
  np.testing.assert_array_equal(read_prompt(str(tmp_path / 'prompt')), PROMPT)


def test_the_prompt_of_a_run_is_read(tmp_path):
  path = str(tmp_path / 'prompt.safetensors')
  write_state(path, {'encoder/prompt/prompt/prompt': PROMPT, 'step': np.array(3)}, {})
  np.testing.assert_array_equal(read_prompt(path), PROMPT, strict=True)


@pytest.mark.parametrize('name', ['task/classifier', 'prompt'])
def test_a_state_without_a_prompt_is_an_error(tmp_path, name):
  write_state(str(tmp_path / 'state'), {name: PROMPT}, {})
  with pytest.raises(ValueError, match=f'state holds {name}; expected one array whose name ends in prompt/prompt'):
    read_prompt(str(tmp_path / 'state'))


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 zip', b'a line of text\n'])
def test_a_file_that_is_not_numpy_is_an_error(tmp_path, content):
  (tmp_path / 'prompt.npy').write_bytes(content)
  with pytest.raises(ValueError, match=r'prompt.npy starts with .*neither NumPy .*nor safetensors. Give an array'):
    read_prompt(str(tmp_path / 'prompt.npy'))


@pytest.mark.parametrize('lost', [1, 4, 48])
def test_a_truncated_prompt_is_an_error(tmp_path, lost):
  (tmp_path / 'prompt.npy').write_bytes(numpy_bytes(PROMPT)[:-lost])
  with pytest.raises(ValueError, match=rf'holds {48 - lost} bytes of data, but its header declares 48 .*truncated'):
    read_prompt(str(tmp_path / 'prompt.npy'))


@pytest.mark.parametrize('length', [6, 8, 20])
def test_a_truncated_header_is_an_error(tmp_path, length):
  (tmp_path / 'prompt.npy').write_bytes(numpy_bytes(PROMPT)[:length])
  with pytest.raises(ValueError, match=r'prompt.npy is truncated or damaged: its NumPy header cannot be read'):
    read_prompt(str(tmp_path / 'prompt.npy'))


def test_a_header_that_promises_terabytes_allocates_nothing(tmp_path):
  content = numpy_bytes(PROMPT).replace(b"(3, 4), }" + b' ' * 20, b'(999999999999, 999999), }    ')
  assert b'999999999999' in content
  (tmp_path / 'prompt.npy').write_bytes(content)
  with pytest.raises(ValueError, match='holds 48 bytes of data, but its header declares 39999'):
    read_prompt(str(tmp_path / 'prompt.npy'))


def test_no_flipped_bit_in_a_header_ends_in_anything_but_a_prompt_or_a_clear_error(tmp_path):
  content = numpy_bytes(PROMPT)
  for place in range(len(content) - PROMPT.nbytes):
    for bit in range(8):
      flipped = bytearray(content)
      flipped[place] ^= 1 << bit
      (tmp_path / 'prompt.npy').write_bytes(flipped)
      try:
        assert read_prompt(str(tmp_path / 'prompt.npy')).size == 12
      except ValueError as error:
        assert 'prompt.npy' in str(error)


def test_objects_are_never_unpickled(tmp_path):

  class Bomb:
    def __reduce__(self):
      return os.mkdir, (str(tmp_path / 'exploded'),)

  (tmp_path / 'prompt.npy').write_bytes(numpy_bytes(np.array([[Bomb()]]), allow_pickle=True))
  with pytest.raises(ValueError, match=r'prompt.npy holds Python objects, which are never loaded'):
    read_prompt(str(tmp_path / 'prompt.npy'))
  assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize('shape', [(12,), (1, 3, 4), (), (0, 4)])
def test_a_prompt_of_another_rank_is_an_error(tmp_path, shape):
  np.save(tmp_path / 'prompt.npy', np.ones(shape, np.float32))
  with pytest.raises(ValueError, match=r'prompt.npy: found shape \(.*\), expected \[prompt length, width\]'):
    read_prompt(str(tmp_path / 'prompt.npy'))
  with pytest.raises(ValueError, match=r'found shape \(.*\), expected \[prompt length, width\]'):
    write_numpy_prompt(str(tmp_path / 'other.npy'), np.ones(shape, np.float32))
  assert os.listdir(tmp_path) == ['prompt.npy']


@pytest.mark.parametrize('dtype', [np.int64, np.complex64, 'U3', [('a', 'f4')]])
def test_a_prompt_of_other_things_than_floating_point_is_an_error(tmp_path, dtype):
  np.save(tmp_path / 'prompt.npy', np.ones((3, 4), dtype))
  with pytest.raises(ValueError, match=r'prompt.npy: found type .*, expected floating point'):
    read_prompt(str(tmp_path / 'prompt.npy'))


def test_an_absent_file_and_a_folder_are_errors_that_say_what_to_give(tmp_path):
  np.save(tmp_path / 'prompt.npy', PROMPT)
  with pytest.raises(FileNotFoundError, match=r'there is no such prompt file. .*Did you mean .*prompt.npy\?'):
    read_prompt(str(tmp_path / 'prompt'))
  with pytest.raises(ValueError, match=r'is a folder, expected a file'):
    read_prompt(str(tmp_path))


def test_a_full_disk_leaves_the_old_prompt_and_no_temporary(tmp_path, full_disk):
  path = str(tmp_path / 'prompt')
  write_numpy_prompt(path, PROMPT)
  with full_disk(50_000), pytest.raises(OSError, match=r'prompt cannot be written: .*Existing content is'):
    write_numpy_prompt(path, np.ones((100, 768), np.float32))
  assert os.listdir(tmp_path) == ['prompt']
  np.testing.assert_array_equal(read_prompt(path), PROMPT)


@pytest.mark.parametrize(('change', 'found'), [
  (lambda x: x.__setitem__((1, 3), np.nan), r'the prompt\[1, 3\] is nan'),
  (lambda x: x.__setitem__((0, 0), -np.inf), r'the prompt\[0, 0\] is -inf'),
  (lambda x: x.__setitem__((2, 1), 1e300), r'the prompt\[2, 1\] is 1e\+300')])
def test_numbers_that_are_not_finite_in_float32_are_an_error_with_their_place(tmp_path, change, found):
  prompt = PROMPT.astype(np.float64)
  change(prompt)
  np.save(tmp_path / 'prompt.npy', prompt)
  with pytest.raises(ValueError, match=rf'prompt.npy: {found}, expected finite numbers in float32. Use an older'):
    read_prompt(str(tmp_path / 'prompt.npy'))


@pytest.mark.parametrize('shape', [(-3, -4), (True, 12), (3.0, 4), (0, 10**30), (2**63, 2**63)])
def test_a_header_with_a_shape_that_no_array_has_is_an_error(tmp_path, shape):
  header = repr({'descr': '<f4', 'fortran_order': False, 'shape': shape}).encode().ljust(117) + b'\n'
  (tmp_path / 'prompt.npy').write_bytes(
    b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header + PROMPT.tobytes())
  with pytest.raises(ValueError, match=r'prompt.npy '):
    read_prompt(str(tmp_path / 'prompt.npy'))
