"""A custom model family, Llama with other names: registered by one call, loaded, used, saved and read back."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder, write_huggingface
from prompt_tuning.models import loading
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import llama, registry
from prompt_tuning.models.family import table
from prompt_tuning.models.positions import Rotary

CONFIG = DecoderConfig(
  vocab_size=29, layers=2, width=12, heads=4, kv_heads=2, head_dim=6, mlp_dim=14, mlp_activations=('silu', 'linear'),
  query_scale=6**-0.5, rotary=(Rotary(100.0),) * 2, windows=(0, 0))
TABLE = table('''
  token_embedder/embedding                                toy.words
  decoder/layers_{i}/pre_self_attention_layer_norm/scale  toy.{i}.before_attention
  decoder/layers_{i}/self_attention/query/kernel          toy.{i}.attention.wq           T
  decoder/layers_{i}/self_attention/key/kernel            toy.{i}.attention.wkv[0/2]
  decoder/layers_{i}/self_attention/value/kernel          toy.{i}.attention.wkv[1/2]
  decoder/layers_{i}/self_attention/out/kernel            toy.{i}.attention.wo           T
  decoder/layers_{i}/pre_mlp_layer_norm/scale             toy.{i}.before_mlp
  decoder/layers_{i}/mlp/wi_0/kernel                      toy.{i}.mlp.gate               T
  decoder/layers_{i}/mlp/wi_1/kernel                      toy.{i}.mlp.up
  decoder/layers_{i}/mlp/wo/kernel                        toy.{i}.mlp.down               T
  decoder/decoder_norm/scale                              toy.last
  decoder/logits_dense/kernel                             toy.predicts                   T
''')
THEIRS = {'num_hidden_layers': 'depth', 'hidden_size': 'dim', 'num_attention_heads': 'n_heads',
          'num_key_value_heads': 'n_kv_heads', 'intermediate_size': 'hidden_dim'}


def read(config):
  return llama.read({**config, **{name: config[theirs] for name, theirs in THEIRS.items()}})


def write(config):
  return {THEIRS.get(name, name): value for name, value in llama.write(config).items()}


TOY = dataclasses.replace(
  llama.FAMILY, name='toy', model_types=('toy', 'toy_chat'), architecture='', read=read, write=write, table=TABLE,
  prefixes=('',), unread=(r'toy\.clock',))


@pytest.fixture
def toy():
  """The family, registered for the duration of the test."""
  yield pt.register_family(TOY)
  del registry.FAMILIES['toy']


@pytest.fixture(scope='module')
def as_llama(tmp_path_factory):
  """A model that was loaded as a Llama."""
  folder = str(tmp_path_factory.mktemp('llama') / 'model')
  pt.save_model(pt.random_model(CONFIG, seed=3), folder)
  return pt.load_model(folder)


def write_folder(path, arrays, **changes):
  """Writes the Llama's arrays as a folder of the toy family, without the package's tables or writers."""
  named = {'toy.words': arrays['model.embed_tokens.weight'], 'toy.last': arrays['model.norm.weight'],
           'toy.predicts': arrays['lm_head.weight'], 'toy.clock': np.ones(3, np.float32)}
  for i in range(2):
    of = {name.removeprefix(f'model.layers.{i}.').removesuffix('.weight'): array for name, array in arrays.items()}
    named |= {
      f'toy.{i}.before_attention': of['input_layernorm'], f'toy.{i}.before_mlp': of['post_attention_layernorm'],
      f'toy.{i}.attention.wq': of['self_attn.q_proj'], f'toy.{i}.attention.wo': of['self_attn.o_proj'],
      f'toy.{i}.attention.wkv': np.concatenate([of['self_attn.k_proj'].T, of['self_attn.v_proj'].T], axis=1),
      f'toy.{i}.mlp.gate': of['mlp.gate_proj'], f'toy.{i}.mlp.up': of['mlp.up_proj'].T,
      f'toy.{i}.mlp.down': of['mlp.down_proj']}
  write_huggingface(str(path), {
    'model_type': 'toy', 'vocab_size': 29, 'depth': 2, 'dim': 12, 'n_heads': 4, 'n_kv_heads': 2, 'head_dim': 6,
    'hidden_dim': 14, 'rope_theta': 100.0, **changes}, named)
  return str(path)


@pytest.fixture
def folder(as_llama, tmp_path):
  reader = HuggingFaceFolder(as_llama.path)
  return write_folder(tmp_path / 'toy', {name: reader.read(name) for name in reader.names()})


def test_a_registered_family_gives_the_logits_of_the_same_weights_read_as_a_llama(toy, folder, as_llama):
  model = pt.load_model(folder)
  assert model.facts.family == 'toy'
  assert model.module.config == dataclasses.replace(as_llama.module.config, family='toy')
  given = [[5, 6, 7], [8]], [[9, 10], [11, 12, 13]]
  np.testing.assert_array_equal(model.logits(*given), as_llama.logits(*given))
  np.testing.assert_array_equal(loading.load_embedding(folder), as_llama.embeddings())


def test_a_model_of_a_registered_family_is_saved_under_its_own_names_and_read_back(toy, folder, tmp_path):
  model = pt.load_model(folder)
  pt.save_model(model, str(tmp_path / 'written'))
  original, written = HuggingFaceFolder(folder), HuggingFaceFolder(str(tmp_path / 'written'))
  assert written.config['model_type'] == 'toy' and written.config['depth'] == 2
  assert original.names().keys() - written.names().keys() == {'toy.clock'}
  for name in written.names():
    np.testing.assert_array_equal(written.read(name), original.read(name))
  again = pt.load_model(str(tmp_path / 'written'))
  assert again.module.config == model.module.config
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_what_a_run_stores_of_a_registered_familys_model_makes_the_model_again(toy, folder):
  model = pt.load_model(folder)
  described = json.loads(json.dumps(loading.describe(model.module.config)))
  named = loading.save(model.params)
  again = loading.model_of_arrays(named, 'run', described=described)
  assert again.module.config == model.module.config
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_a_family_that_is_not_registered_is_an_error_that_says_how(folder):
  with pytest.raises(ValueError, match=r"type 'toy'; supported types are t5, mt5, .*prompt_tuning.register_family"):
    pt.load_model(folder)
  with pytest.raises(ValueError, match=r"no model family 'toy'.*Choose one of t5, .*prompt_tuning.register_family"):
    pt.random_model(dataclasses.replace(CONFIG, family='toy'))


@pytest.mark.parametrize(('changes', 'message'), [
  ({'name': 'llama'}, "already a model family 'llama' .*Give the new one another name"),
  ({'model_types': ('own', 'qwen3')}, "model type 'qwen3' of the family 'toy' already belongs to 'qwen3'"),
])
def test_a_name_or_model_type_of_another_family_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    pt.register_family(dataclasses.replace(TOY, **changes))
  assert 'toy' not in registry.FAMILIES


@pytest.mark.parametrize(('change', 'message'), [
  ({'use_bidirectional_attention': True},
   r'sets use_bidirectional_attention to True; the supported value is False. Choose a model of the family toy'),
  ({'hidden_act': 'mish'}, r"toy/config.json asks for the activation 'mish'; supported are gelu_new"),
  ({'depth': None}, r"toy/config.json lacks 'depth', which a model of type 'toy' needs"),
  ({'dim': 16}, r'toy does not fit the model.*\n.*toy.words: found \(29, 12\), expected \(29, 16\)'),
])
def test_a_registered_familys_errors_name_the_file_and_its_own_names(toy, folder, change, message):
  file = f'{folder}/config.json'
  with open(file) as opened:
    config = json.load(opened) | change
  with open(file, 'w') as opened:
    json.dump({name: value for name, value in config.items() if value is not None}, opened)
  with pytest.raises(ValueError, match=message):
    pt.load_model(folder)


def test_another_shape_than_the_run_asks_for_is_an_error(toy, folder):
  with pytest.raises(ValueError, match=r'another model than the run asks for \(layers: 2 in the folder, 3 asked for'):
    pt.load_model(folder, config=dataclasses.replace(CONFIG, layers=3))
  with pytest.raises(ValueError, match=r'describes a decoder-only model, but the run asks for an encoder-decoder'):
    pt.load_model(folder, config=pt.T5Config(29, 12, 4, 6, 14, 2, 2))


def test_every_family_is_registered_under_its_own_name():
  assert {name: family.name for name, family in registry.FAMILIES.items()} == {name: name for name in registry.FAMILIES}
  types = [each for family in registry.FAMILIES.values() for each in family.model_types]
  assert len(types) == len(set(types))


def test_a_row_of_a_table_that_cannot_be_read_is_an_error():
  with pytest.raises(ValueError, match=r"has the line 'ours theirs transposed'. Write our name, theirs, and T"):
    table('ours theirs transposed')
