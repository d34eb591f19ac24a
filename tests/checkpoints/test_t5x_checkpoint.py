import json
import os
import pathlib
import shutil

import flax.serialization
import golden_models
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from prompt_tuning.checkpoints.t5x import T5XCheckpoint, write_t5x

NAMED = {
  'token_embedder/embedding': np.arange(30, dtype=np.float32).reshape(6, 5),
  'encoder/layers_0/mlp/wo/kernel': np.zeros((4, 5), np.float32),  # zarr may leave out chunks of zeros
  'encoder/layers_1/mlp/wo/kernel': np.full((4, 5), 0.1, jnp.bfloat16),
  'encoder/encoder_norm/scale': np.array([1.0, -2.0, 3.5], np.float32),
}


def assert_same(checkpoint, wanted):
  names = checkpoint.names()
  assert names.keys() == wanted.keys()
  for name, array in wanted.items():
    found = checkpoint.read(name)
    assert names[name] == (found.shape, found.dtype) == (array.shape, array.dtype), name
    np.testing.assert_array_equal(found, array)


def test_an_old_native_checkpoint_is_read_to_the_bit(shared):
  checkpoint = T5XCheckpoint(str(shared / 't5x_native' / 'checkpoint_3'))
  assert checkpoint.step == 3
  assert_same(checkpoint, np.load(shared / 't5x/a_plain_tiny/params_checkpoint_3.npz'))


@pytest.fixture(params=['own', 'small'])
def golden(request):
  """The files of a model that T5X wrote."""
  return golden_models.t5x_files(request.param)


@pytest.mark.parametrize('folder', ['ckpt_native', 'ckpt_orbax'])
def test_both_layouts_of_today_are_read_to_the_bit(golden, folder):
  checkpoint = T5XCheckpoint(str(golden.checkpoints / folder / 'checkpoint_1234'))
  assert checkpoint.step == 1234
  assert_same(checkpoint, np.load(golden.params))


def test_a_bfloat16_checkpoint_is_read_as_bfloat16(golden):
  params = np.load(golden.params)
  checkpoint = T5XCheckpoint(str(golden.checkpoints / 'ckpt_native_bf16/checkpoint_1234'))
  assert_same(checkpoint, {name: array.astype(jnp.bfloat16) for name, array in params.items()})


@pytest.mark.parametrize('folder', ['ckpt_native_prompt', 'ckpt_orbax_prompt'])
def test_a_checkpoint_whose_frozen_parameters_have_no_state_is_read(golden, folder):
  params, trajectory = dict(np.load(golden.params)), np.load(golden.training)
  checkpoint = T5XCheckpoint(str(golden.checkpoints / folder))
  assert checkpoint.step == len(trajectory['start0_loss'])
  assert_same(checkpoint, params | {'encoder/prompt/prompt/prompt': trajectory['start0_prompts'][-1]})
  state = T5XCheckpoint(str(golden.checkpoints / folder), part='state')
  np.testing.assert_array_equal(state.read('param_states/encoder/prompt/prompt/prompt/v'), trajectory['start0_final_v'])
  assert not any('mlp' in name for name in state.names())


def test_the_folder_the_file_in_it_and_the_folder_above_mean_the_same(golden):
  above = golden.checkpoints / 'ckpt_native'
  paths = [above, above / 'checkpoint_1234', f'{above}/checkpoint_1234/', above / 'checkpoint_1234' / 'checkpoint']
  assert {T5XCheckpoint(path).path for path in paths} == {str(above / 'checkpoint_1234')}


def test_the_newest_finished_checkpoint_of_a_folder_is_taken(tmp_path):
  for step in (9, 10, 2):
    write_t5x(str(tmp_path), step, {'a/b': np.full((2, 3), step, np.float32)})
  (tmp_path / 'checkpoint_11.tmp-1700000000').mkdir()
  (tmp_path / 'checkpoint_12.orbax-checkpoint-tmp-3').mkdir()
  (tmp_path / 'checkpoint_13').write_text('a file')
  checkpoint = T5XCheckpoint(str(tmp_path))
  assert (checkpoint.step, checkpoint.path) == (10, str(tmp_path / 'checkpoint_10'))
  assert checkpoint.read('a/b').max() == 10


def test_what_is_written_is_read_back(tmp_path):
  path = write_t5x(str(tmp_path / 'new' / 'folder'), 1_100_000, NAMED)
  assert path == str(tmp_path / 'new' / 'folder' / 'checkpoint_1100000')
  checkpoint = T5XCheckpoint(path)
  assert checkpoint.step == 1_100_000
  assert_same(checkpoint, NAMED)


@pytest.mark.parametrize('folder', ['ckpt_native', 'ckpt_native_bf16', 'ckpt_native_prompt'])
def test_what_is_written_has_the_structure_that_t5x_writes(golden, tmp_path, folder):
  golden = T5XCheckpoint(str(golden.checkpoints / folder))
  ours = pathlib.Path(write_t5x(str(tmp_path), golden.step, {name: golden.read(name) for name in golden.names()}))
  theirs = pathlib.Path(golden.path)
  found, wanted = (
    flax.serialization.msgpack_restore((path / 'checkpoint').read_bytes()) for path in (ours, theirs))
  assert found['version'] == wanted['version']
  assert found['optimizer']['target'] == wanted['optimizer']['target']
  np.testing.assert_array_equal(found['optimizer']['state']['step'], wanted['optimizer']['state']['step'], strict=True)
  folders = {path.name for path in theirs.glob('target.*')}
  assert {path.name for path in ours.glob('target.*')} == folders
  for name in folders:
    assert json.loads((ours / name / '.zarray').read_text()) == json.loads((theirs / name / '.zarray').read_text())
    assert os.listdir(ours / name) == os.listdir(theirs / name)


def test_frozen_parameters_are_written_without_optimiser_state_as_t5x_does(golden, tmp_path):
  (file,) = golden.checkpoints.glob('ckpt_native_prompt/checkpoint_*/checkpoint')
  states = flax.serialization.msgpack_restore(file.read_bytes())['optimizer']['state']['param_states']
  path = write_t5x(str(tmp_path), 3, {'encoder/layers_0/mlp/wo/kernel': np.ones((2, 3), np.float32)})
  ours = flax.serialization.msgpack_restore((pathlib.Path(path) / 'checkpoint').read_bytes())
  assert ours['optimizer']['state']['param_states']['encoder']['layers_0']['mlp'] == {'wo': {'kernel': None}}
  assert states['encoder']['layers_0']['mlp']['wo'] == {'kernel': None}


def test_large_arrays_are_written_in_chunks_of_at_most_64_mib_that_divide_them(tmp_path):
  array = np.zeros((3 * 1024, 8192), np.float32)  # 96 MiB
  array[1500, 8000] = 2
  path = pathlib.Path(write_t5x(str(tmp_path), 0, {'wide': array}))
  metadata = json.loads((path / 'target.wide' / '.zarray').read_text())
  assert metadata['chunks'] == [3 * 1024, 4096]
  assert sorted(os.listdir(path / 'target.wide')) == ['.zarray', '0.0', '0.1']
  np.testing.assert_array_equal(T5XCheckpoint(str(path)).read('wide'), array)


def test_arrays_that_msgpack_itself_cuts_into_chunks_are_read(tmp_path, monkeypatch):
  monkeypatch.setattr(flax.serialization, 'MAX_CHUNK_SIZE', 40)
  array = np.arange(30, dtype=np.float32).reshape(5, 6)
  content = flax.serialization.msgpack_serialize(
    {'version': 3, 'optimizer': {'target': {'a': {'b': array}}, 'state': {'step': np.int32(5)}}})
  assert b'__msgpack_chunked_array__' in content
  (tmp_path / 'checkpoint_5').mkdir()
  (tmp_path / 'checkpoint_5' / 'checkpoint').write_bytes(content)
  assert_same(T5XCheckpoint(str(tmp_path)), {'a/b': array})


def test_version_2_which_stored_bfloat16_as_uint16_is_read(tmp_path):
  array = np.array([[0.5, -3.0, 7.25]], jnp.bfloat16)
  path = pathlib.Path(write_t5x(str(tmp_path), 4, {'a/b': array.view(np.uint16)}))
  tree = flax.serialization.msgpack_restore((path / 'checkpoint').read_bytes())
  (path / 'checkpoint').write_bytes(flax.serialization.msgpack_serialize(tree | {'version': 2}))
  assert_same(T5XCheckpoint(str(path)), {'a/b': array})


def test_a_description_that_has_its_path_on_top_is_read(tmp_path):
  path = pathlib.Path(write_t5x(str(tmp_path), 4, {'a/b': NAMED['token_embedder/embedding']}))
  tree = flax.serialization.msgpack_restore((path / 'checkpoint').read_bytes())
  leaf = tree['optimizer']['target']['a']['b']
  leaf |= {'path': leaf['kvstore'].pop('path'), 'kvstore': {'driver': 'gfile', 'bucket': 'elsewhere'}}
  (path / 'checkpoint').write_bytes(flax.serialization.msgpack_serialize(tree))
  assert_same(T5XCheckpoint(str(path)), {'a/b': NAMED['token_embedder/embedding']})


EMBEDDING = 'target.token_embedder.embedding'


@pytest.mark.parametrize('lost', ['3.0', '.zarray', ''])
def test_a_missing_chunk_is_an_error_that_names_file_and_array(shared, writable_copy, lost):
  folder = writable_copy(shared / 't5x_native' / 'checkpoint_3')
  checkpoint = T5XCheckpoint(str(folder))
  place = folder / EMBEDDING / lost
  place.unlink() if lost else shutil.rmtree(place)
  with pytest.raises(ValueError, match=rf'checkpoint_3: the array token_embedder/embedding cannot be read: .*'
                                       rf'{EMBEDDING}/{lost or ".zarray"}.* A part is missing or damaged; copy the'):
    checkpoint.read('token_embedder/embedding')
  assert checkpoint.read('decoder/logits_dense/kernel').shape == (4, 32128)


def test_a_corrupt_or_truncated_chunk_is_an_error_that_names_file_and_array(shared, writable_copy):
  folder = writable_copy(shared / 't5x_native' / 'checkpoint_3')
  content = (folder / EMBEDDING / '2.0').read_bytes()
  flipped = bytearray(content)
  flipped[len(content) // 2] ^= 16
  for damaged in (flipped, content[:-20], b''):
    (folder / EMBEDDING / '2.0').write_bytes(damaged)
    with pytest.raises(ValueError, match=rf'token_embedder/embedding cannot be read: .*{EMBEDDING}/2.0'):
      T5XCheckpoint(str(folder)).read('token_embedder/embedding')


def test_an_array_of_another_shape_than_listed_is_an_error(tmp_path):
  path = pathlib.Path(write_t5x(str(tmp_path), 4, NAMED))
  shutil.rmtree(path / EMBEDDING)
  shutil.copytree(path / 'target.encoder.layers_0.mlp.wo.kernel', path / EMBEDDING)
  with pytest.raises(ValueError, match=r"its shape is \(4, 5\), but 'checkpoint' says \(6, 5\)"):
    T5XCheckpoint(str(path)).read('token_embedder/embedding')


def test_a_missing_data_file_of_an_orbax_checkpoint_is_an_error(golden, writable_copy):
  folder = writable_copy(golden.checkpoints / 'ckpt_orbax/checkpoint_1234')
  for file in (folder / 'state/ocdbt.process_0/d').iterdir():
    file.unlink()
  with pytest.raises(ValueError, match=r'checkpoint_1234(/state is damaged|: the array \S+ cannot be read)'):
    checkpoint = T5XCheckpoint(str(folder))
    for name in checkpoint.names():
      checkpoint.read(name)


@pytest.mark.parametrize('content', [
  b'', b'{"json": 1}', b'\x81\xa7version\x03',
  flax.serialization.msgpack_serialize({'version': 3, 'optimizer': {'target': {}}})])
def test_a_damaged_or_foreign_list_of_arrays_is_an_error(tmp_path, content):
  (tmp_path / 'checkpoint_5').mkdir()
  (tmp_path / 'checkpoint_5' / 'checkpoint').write_bytes(content)
  with pytest.raises(ValueError, match=r'checkpoint_5/checkpoint is damaged or not a T5X file: .*Copy the checkpoint'):
    T5XCheckpoint(str(tmp_path))


def test_an_unknown_version_is_an_error(tmp_path):
  path = pathlib.Path(write_t5x(str(tmp_path), 4, NAMED))
  tree = flax.serialization.msgpack_restore((path / 'checkpoint').read_bytes())
  (path / 'checkpoint').write_bytes(flax.serialization.msgpack_serialize(tree | {'version': 4}))
  with pytest.raises(ValueError, match='has version 4 of the native layout; this package reads 2 and 3'):
    T5XCheckpoint(str(path))


def test_paths_without_a_checkpoint_are_errors_that_say_what_was_found(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'absent: found nothing, expected a T5X folder checkpoint_<step>'):
    T5XCheckpoint(str(tmp_path / 'absent'))
  (tmp_path / 'file').write_text('')
  with pytest.raises(FileNotFoundError, match=r'file: found a file, expected a T5X folder'):
    T5XCheckpoint(str(tmp_path / 'file'))
  with pytest.raises(FileNotFoundError, match=r'is not a T5X checkpoint: it holds neither .*, nor folders'):
    T5XCheckpoint(str(tmp_path))
  (tmp_path / 'checkpoint_3').mkdir()
  with pytest.raises(FileNotFoundError, match=r'checkpoint_3 is the newest checkpoint of .*, but holds neither a file'):
    T5XCheckpoint(str(tmp_path))
  with pytest.raises(ValueError, match=r'checkpoint_3.tmp-17 is incomplete'):
    T5XCheckpoint(str(tmp_path / 'checkpoint_3.tmp-17'))


def test_an_unknown_name_is_an_error_that_gives_the_nearest(tmp_path):
  with pytest.raises(KeyError, match=r'has no array encoder/norm/scale. Did you mean encoder/encoder_norm/scale'):
    T5XCheckpoint(write_t5x(str(tmp_path), 4, NAMED)).read('encoder/norm/scale')


def test_a_checkpoint_is_never_overwritten(tmp_path):
  write_t5x(str(tmp_path), 4, NAMED)
  with pytest.raises(FileExistsError, match='checkpoint_4 already exists and is never overwritten'):
    write_t5x(str(tmp_path), 4, {'a': np.ones(3, np.float32)})
  assert_same(T5XCheckpoint(str(tmp_path)), NAMED)
  with pytest.raises(OSError, match='gs://bucket/x/checkpoint_4: writing a whole folder to an object'):
    write_t5x('gs://bucket/x', 4, NAMED)


def test_a_full_disk_leaves_no_checkpoint_and_no_temporary(tmp_path, full_disk):
  noise = np.random.default_rng(0).random((300, 200), np.float32)
  with full_disk(50_000), pytest.raises(OSError, match=r'checkpoint_4 cannot be written: .*Free some space or choose'):
    write_t5x(str(tmp_path), 4, {'a': np.ones(3, np.float32), 'noise': noise})
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(('ocdbt', 'zarr3'), [(False, False), (False, True), (True, True)])
def test_arrays_of_orbax_in_folders_and_in_zarr_3_are_read(tmp_path, ocdbt, zarr3):
  path, array = tmp_path / 'run/checkpoint_7', np.arange(6, dtype=np.float32).reshape(2, 3)
  (path / 'state').mkdir(parents=True)
  root = {'driver': 'file', 'path': f'{path}/state/'}
  root = {'driver': 'ocdbt', 'base': root} if ocdbt else root
  for name, value in {'target.encoder.layers_0.kernel': array, 'state.step': np.asarray(7, np.int32)}.items():
    spec = {'driver': 'zarr3' if zarr3 else 'zarr', 'kvstore': root | {'path': f'{root.get("path", "")}{name}/'},
            'schema': {'dtype': value.dtype.name, 'domain': {'shape': value.shape}}}
    tensorstore.open(spec, create=True).result().write(value).result()
  found = T5XCheckpoint(str(tmp_path / 'run'))
  assert found.step == 7 and found.names() == {'encoder/layers_0/kernel': ((2, 3), np.dtype(np.float32))}
  np.testing.assert_array_equal(found.read('encoder/layers_0/kernel'), array, strict=True)


def test_a_checkpoint_of_tensorflow_is_called_that(tmp_path):
  (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-1000"\n')
  (tmp_path / 'model.ckpt-1000.index').write_bytes(b'')
  for path in (tmp_path, tmp_path / 'model.ckpt-1000'):
    with pytest.raises(ValueError, match=r'is a TensorFlow checkpoint, .*convert_tf_checkpoint'):
      T5XCheckpoint(str(path))


@pytest.mark.parametrize('leaf', [
  {'driver': 'zarr', 'metadata': {}}, {'driver': 'zarr', 'metadata': None, 'kvstore': {'path': 'target.a/'}},
  {'driver': 'zarr', 'metadata': {'shape': [2], 'dtype': 'f4'}},
  {'driver': 'zarr', 'metadata': {'shape': 5}, 'path': 'a'}])
def test_a_description_of_an_array_that_cannot_be_read_is_an_error(tmp_path, leaf):
  (tmp_path / 'checkpoint_5').mkdir()
  (tmp_path / 'checkpoint_5/checkpoint').write_bytes(flax.serialization.msgpack_serialize(
    {'version': 3, 'optimizer': {'target': {'a': leaf}, 'state': {'step': np.asarray(5)}}}))
  with pytest.raises(ValueError, match=r'checkpoint_5/checkpoint is damaged or not a T5X file'):
    T5XCheckpoint(str(tmp_path))
