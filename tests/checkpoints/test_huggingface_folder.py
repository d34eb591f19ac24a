import json
import os
import re

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder, write_huggingface

CONFIG = {'model_type': 't5', 'd_model': 5, 'tie_word_embeddings': False}
NAMED = {
  'shared.weight': np.arange(30, dtype=np.float32).reshape(6, 5),
  'encoder.block.0.layer.1.DenseReluDense.wo.weight': np.full((5, 4), 0.1, jnp.bfloat16),
  'lm_head.weight': np.arange(30, dtype=np.float32).reshape(5, 6).T,  # in another memory order
  'encoder.final_layer_norm.weight': np.array([1, 2, 3, 4, 5], np.float16),
}


def assert_same(folder, wanted):
  names = folder.names()
  assert names.keys() == wanted.keys()
  for name, array in wanted.items():
    found = folder.read(name)
    assert names[name] == (found.shape, found.dtype) == (array.shape, array.dtype), name
    np.testing.assert_array_equal(found, array)


def parse(path):
  """Reads float32 safetensors according to the format: length, JSON header, data."""
  content = path.read_bytes()
  start = 8 + int.from_bytes(content[:8], 'little')
  header = json.loads(content[8:start])
  header.pop('__metadata__')
  return {name: np.frombuffer(content[start + field['data_offsets'][0]:start + field['data_offsets'][1]], '<f4')
          .reshape(field['shape']) for name, field in header.items()}


@pytest.mark.parametrize('model', ['t5_v10', 't5_v11'])
def test_folders_that_transformers_wrote_are_read_to_the_bit(shared, model):
  folder = HuggingFaceFolder(str(shared / 'hf' / model))
  assert folder.config == json.loads((shared / 'hf' / model / 'config.json').read_text())
  assert_same(folder, parse(shared / 'hf' / model / 'model.safetensors'))


def test_one_file_is_written_and_read_back(tmp_path):
  write_huggingface(str(tmp_path / 'model'), CONFIG, NAMED)
  assert sorted(os.listdir(tmp_path / 'model')) == ['config.json', 'model.safetensors']
  folder = HuggingFaceFolder(str(tmp_path / 'model'))
  assert folder.config == CONFIG
  assert_same(folder, NAMED)


def test_shards_are_written_as_transformers_names_them_and_read_back(tmp_path):
  (tmp_path / 'model').mkdir()  # an empty folder may exist
  write_huggingface(str(tmp_path / 'model'), CONFIG, NAMED, shard_bytes=160)
  assert sorted(os.listdir(tmp_path / 'model')) == [
    'config.json', 'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors',
    'model.safetensors.index.json']
  index = json.loads((tmp_path / 'model' / 'model.safetensors.index.json').read_text())
  assert index == {
    'metadata': {'total_size': 120 + 40 + 120 + 10},
    'weight_map': dict(zip(NAMED, 2 * ['model-00001-of-00002.safetensors'] + 2 * ['model-00002-of-00002.safetensors'],
                           strict=True))}
  with safetensors.safe_open(tmp_path / 'model' / 'model-00001-of-00002.safetensors', framework='numpy') as file:
    assert file.metadata() == {'format': 'pt'}  # transformers rejects files without it
  assert_same(HuggingFaceFolder(str(tmp_path / 'model')), NAMED)


def test_an_array_larger_than_a_shard_gets_its_own(tmp_path):
  write_huggingface(str(tmp_path / 'model'), CONFIG, NAMED, shard_bytes=1)
  assert len(list((tmp_path / 'model').glob('model-*-of-00004.safetensors'))) == 4
  assert_same(HuggingFaceFolder(str(tmp_path / 'model')), NAMED)


@pytest.fixture
def sharded(tmp_path):
  write_huggingface(str(tmp_path / 'model'), CONFIG, NAMED, shard_bytes=160)
  return tmp_path / 'model'


def test_a_missing_shard_is_an_error(sharded):
  (sharded / 'model-00002-of-00002.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match=r'model-00002-of-00002.safetensors does not exist, but .*index.json'):
    HuggingFaceFolder(str(sharded))


def test_a_truncated_shard_is_an_error(sharded):
  content = (sharded / 'model-00002-of-00002.safetensors').read_bytes()
  for length in (0, 20, len(content) - 1):
    (sharded / 'model-00002-of-00002.safetensors').write_bytes(content[:length])
    with pytest.raises(ValueError, match=r'model-00002-of-00002.safetensors is truncated or not a safetensors file'):
      HuggingFaceFolder(str(sharded))


def test_a_shard_that_lacks_an_array_of_the_index_is_an_error(sharded):
  (sharded / 'model-00002-of-00002.safetensors').write_bytes(
    (sharded / 'model-00001-of-00002.safetensors').read_bytes())
  with pytest.raises(ValueError, match=r'00002.safetensors lacks the array .*, which .* Download the'):
    HuggingFaceFolder(str(sharded))


@pytest.mark.parametrize('content', ['{}', '{"weight_map": {"a": "../../elsewhere.safetensors"}}'])
def test_an_index_without_files_of_this_folder_is_an_error(sharded, content):
  (sharded / 'model.safetensors.index.json').write_text(content)
  with pytest.raises(ValueError, match=r'index.json has no "weight_map" from array names to files in this folder'):
    HuggingFaceFolder(str(sharded))


def test_a_config_that_is_absent_or_not_json_is_an_error(sharded):
  (sharded / 'config.json').write_text('{"d_model": ')
  with pytest.raises(ValueError, match=r'config.json is not JSON: Expecting value: line 1'):
    HuggingFaceFolder(str(sharded))
  (sharded / 'config.json').write_text('[]')
  with pytest.raises(ValueError, match=r'config.json holds a list, expected a JSON object'):
    HuggingFaceFolder(str(sharded))
  (sharded / 'config.json').unlink()
  with pytest.raises(FileNotFoundError, match=r'config.json does not exist; expected a Hugging Face folder'):
    HuggingFaceFolder(str(sharded))


def test_pickled_arrays_are_refused_with_a_way_to_convert_them(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  (tmp_path / 'pytorch_model.bin').write_bytes(b'\x80\x02')
  with pytest.raises(ValueError, match=r'pytorch_model.bin: Python pickles, which are never loaded .*save_pretrained'):
    HuggingFaceFolder(str(tmp_path))
  (tmp_path / 'pytorch_model.bin').unlink()
  with pytest.raises(FileNotFoundError, match=r'holds neither model.safetensors nor model.safetensors.index.json'):
    HuggingFaceFolder(str(tmp_path))


@pytest.mark.parametrize(('model_type', 'auto'), [
  ('t5', 'AutoModelForSeq2SeqLM'), ('mt5', 'AutoModelForSeq2SeqLM'), ('llama', 'AutoModelForCausalLM'),
  ('bert', 'AutoModel')])
def test_the_command_that_converts_pickles_is_the_familys_and_takes_the_tokenizer_along(tmp_path, model_type, auto):
  (tmp_path / 'config.json').write_text(f'{{"model_type": "{model_type}"}}')
  (tmp_path / 'pytorch_model.bin').write_bytes(b'\x80\x02')
  model = f"M.from_pretrained('{tmp_path}').save_pretrained('{tmp_path}-safetensors')"
  command = f'python -c "from transformers import {auto} as M; {model}"'
  with pytest.raises(ValueError, match=re.escape(command)):
    HuggingFaceFolder(str(tmp_path))
  (tmp_path / 'spiece.model').write_bytes(b'')
  command = (f'python -c "from transformers import {auto} as M, AutoTokenizer as T; {model}; '
             f'{model.replace("M.", "T.")}"')
  with pytest.raises(ValueError, match=re.escape(command)):
    HuggingFaceFolder(str(tmp_path))


def test_an_unknown_name_an_unknown_type_and_a_remote_folder_are_errors(sharded):
  with pytest.raises(KeyError, match=r'has no array shared.weights. Did you mean shared.weight'):
    HuggingFaceFolder(str(sharded)).read('shared.weights')
  with pytest.raises(OSError, match='gs://bucket/model: Hugging Face folders are read only from a local disk'):
    HuggingFaceFolder('gs://bucket/model')
  path = sharded / 'model-00001-of-00002.safetensors'
  path.write_bytes(path.read_bytes().replace(b'"BF16","shape":[5,4]', b'"C64","shape":[5,1]'.ljust(20)))
  with pytest.raises(ValueError, match=r'holds encoder.block.0.layer.1.DenseReluDense.wo.weight as C64; this package'):
    HuggingFaceFolder(str(sharded)).names()


def test_a_folder_that_holds_something_is_never_overwritten(sharded):
  with pytest.raises(FileExistsError, match='model already exists and is never overwritten'):
    write_huggingface(str(sharded), CONFIG, {'a': np.ones(3, np.float32)})
  assert_same(HuggingFaceFolder(str(sharded)), NAMED)


def test_a_full_disk_leaves_nothing(tmp_path, full_disk):
  with full_disk(50_000), pytest.raises(OSError, match=r'model cannot be written: .*Free some space'):
    write_huggingface(str(tmp_path / 'model'), CONFIG, {'a': np.ones(3, np.float32), 'b': np.ones(20_000, np.float32)})
  assert os.listdir(tmp_path) == []
