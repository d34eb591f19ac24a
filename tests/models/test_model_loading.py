"""Finding, reading and writing whole models, and inferring a model's shape from its folder."""

import dataclasses
import json

import golden_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.data.vocabularies import ByteVocabulary, TokenizersVocabulary
from prompt_tuning.data.vocabulary_folders import load_vocabulary
from prompt_tuning.models import loading
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.families import t5
from prompt_tuning.models.families.registry import family_of_folder
from prompt_tuning.models.loading import (
  find_model,
  load_embedding,
  load_model,
  model_of_arrays,
  random_model,
  save_model,
)
from prompt_tuning.models.t5 import T5Config

V11 = T5Config(vocab_size=128, width=32, heads=4, head_dim=8, mlp_dim=64, encoder_layers=2, decoder_layers=2)
V10 = dataclasses.replace(V11, mlp_activations=('relu',), tied=True, scaled=True)


@pytest.mark.parametrize(('name', 'config', 'wanted'), [
  ('t5_v11', 'config.json', V11), ('t5_v11', 'config.hub_style.json', V11), ('t5_v10', 'config.json', V10)])
def test_a_hugging_face_folder_tells_its_shape_in_old_and_new_configs(shared, name, config, wanted):
  names = {} if wanted.tied else {'lm_head.weight': None}
  found = t5.FAMILY.read_config(json.loads((shared / 'hf' / name / config).read_text()), names, name)
  assert dataclasses.replace(found, relative_buckets=32, relative_max_distance=128) == wanted


@pytest.mark.parametrize('config', [V11, V10, dataclasses.replace(V11, decoder_layers=3, relative_buckets=8)])
def test_a_written_config_is_read_back(config):
  names = {} if config.tied else {'lm_head.weight': None}
  assert t5.FAMILY.read_config(t5.FAMILY.write_config(config), names, 'here') == config


@pytest.mark.parametrize(('change', 'message'), [
  ({'model_type': 'bart'}, r"here/config.json describes a model of type 'bart'; supported types are t5, mt5"),
  ({'feed_forward_proj': 'gated-tanh'}, r"here/config.json asks for feed_forward_proj 'gated-tanh'; supported are"),
])
def test_a_config_of_another_family_is_an_error(change, message):
  with pytest.raises(ValueError, match=message):
    stored = t5.FAMILY.write_config(V11) | change
    family_of_folder(stored, 'here').read_config(stored, ['lm_head.weight'], 'here')


def test_the_shapes_of_a_t5x_checkpoint_tell_its_config(shared):
  model = load_model(str(shared / 't5x/d_small/ckpt_native'))
  assert model.module.config == dataclasses.replace(golden_models.CONFIGS['small'], relative_max_distance=128)
  assert model.step == 1234


def test_a_checkpoint_that_is_no_encoder_decoder_is_an_error():
  names = {'token_embedder/embedding': ((29, 12), None),
           'decoder/layers_0/self_attention/query/kernel': ((12, 15), None)}
  with pytest.raises(ValueError, match=r'there is not an encoder-decoder T5: it lacks encoder/relpos_bias/'):
    t5.infer(names, 'there')


def test_a_shape_that_the_folder_does_not_have_is_an_error_that_names_both(shared):
  with pytest.raises(ValueError, match=r'another model than the run asks for \(width: 32 in the folder, 64 asked'):
    load_model(str(shared / 'hf/t5_v11'), config=dataclasses.replace(V11, width=64))


def test_a_prompt_in_the_checkpoint_is_an_unknown_name_unless_it_is_ignored(shared):
  path = str(shared / 't5x/d_small/ckpt_native_prompt')
  with pytest.raises(ValueError, match=r'Arrays that the model lacks: encoder/prompt/prompt/prompt'):
    load_model(path)
  assert load_model(path, ignore=['.*/prompt/.*']).step == 20


def test_a_path_without_a_model_is_an_error_that_names_those_of_the_package():
  with pytest.raises(FileNotFoundError, match=r'there is no such folder. Did you mean t5_integers.* with the package'):
    load_model('t5_integer')
  assert find_model('t5_integers').endswith('pretrained_models/t5_integers')


def test_a_folder_of_the_working_directory_comes_before_a_model_of_the_package(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 't5_integers').mkdir()
  assert find_model('t5_integers') == 't5_integers'


def test_a_run_that_trained_every_parameter_is_a_model(tiny):
  named = trees.unstack(trees.flatten(tiny.params))
  found = model_of_arrays(named, 'run')
  jax.tree.map(np.testing.assert_array_equal, found.params, tiny.params)
  del named['decoder/decoder_norm/scale']
  with pytest.raises(ValueError, match=r'run does not fit the model.*\n.* lacks: decoder/decoder_norm/scale'):
    model_of_arrays(named, 'run')


@pytest.mark.parametrize('layout', ['huggingface', 't5x'])
def test_a_saved_model_is_read_back_to_the_bit_with_its_vocabulary(tiny, tmp_path, layout):
  vocabulary = load_vocabulary(find_model('t5_integers'))
  config = dataclasses.replace(tiny.module.config, vocab_size=vocabulary.size)
  model = dataclasses.replace(loading.random_model(config), vocabulary=vocabulary, step=7)
  save_model(model, str(tmp_path / 'model'), layout=layout)
  found = load_model(str(tmp_path / 'model'), config=model.module.config)
  jax.tree.map(np.testing.assert_array_equal, found.params, model.params)
  assert isinstance(found.vocabulary, TokenizersVocabulary) and found.vocabulary == vocabulary
  assert found.step == (7 if layout == 't5x' else 0)
  np.testing.assert_array_equal(load_embedding(str(tmp_path / 'model')), model.embeddings())


def test_a_model_is_saved_with_all_files_that_describe_its_tokens(tiny, tmp_path):
  source, described = tmp_path / 'source', {
    'config.json': {'model_type': 'gpt2'}, 'vocab.json': {'h': 0, 'i': 1, 'hi': 2, '<|endoftext|>': 3},
    'added_tokens.json': {'<|user|>': 4}, 'special_tokens_map.json': {'pad_token': 'h'},
    'tokenizer_config.json': {'tokenizer_class': 'GPT2Tokenizer'}}
  source.mkdir()
  for name, content in described.items():
    (source / name).write_text(json.dumps(content))
  (source / 'merges.txt').write_text('h i\n')
  for vocabulary in (load_vocabulary(source), ByteVocabulary(125, added=())):
    written = tmp_path / type(vocabulary).__name__
    save_model(dataclasses.replace(tiny, vocabulary=vocabulary), str(written))
    assert load_vocabulary(written) == vocabulary


def test_a_decoder_only_model_that_is_saved_in_t5xs_layout_is_read_back(causal, tmp_path):
  shape = DecoderConfig(vocab_size=29, layers=2, width=12, heads=3, head_dim=5, mlp_dim=14, relative_buckets=8,
                        family='t5x', started=True)
  for model, config in ((random_model(shape), None), (causal, causal.module.config)):
    save_model(model, str(tmp_path / model.facts.family), layout='t5x')
    found = load_model(str(tmp_path / model.facts.family), config=config)
    assert found.module.config == model.module.config
    jax.tree.map(np.testing.assert_array_equal, found.params, model.params)
    np.testing.assert_array_equal(load_embedding(found.path), model.embeddings())
  with pytest.raises(ValueError, match=r'is not a decoder-only T5: it lacks decoder/relpos_bias/rel_embedding. Give'):
    load_model(found.path)


def test_retrained_parameters_can_be_saved_in_the_models_place(tiny, tmp_path):
  doubled = jax.tree.map(lambda leaf: 2 * leaf, tiny.params)
  save_model(tiny, str(tmp_path / 'model'), params=doubled)
  found = load_model(str(tmp_path / 'model'), dtype=jnp.bfloat16, dropout_rate=0.1)
  assert found.module.config.dropout_rate == 0.1
  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(found.params))
  np.testing.assert_allclose(found.params['encoder']['encoder_norm']['scale'], 2.0)


def test_an_unknown_layout_is_an_error(tiny, tmp_path):
  with pytest.raises(ValueError, match=r"layout='torch' is unknown. Use \"huggingface\" or \"t5x\""):
    save_model(tiny, str(tmp_path), layout='torch')


@pytest.mark.parametrize('name', ['run.toml', 'checkpoint_3/state.safetensors'])
def test_the_folder_of_a_run_that_ended_early_is_not_a_model(tmp_path, name):
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  path.write_text('')
  with pytest.raises(ValueError, match=r'is the folder of a run, which holds trained tensors, not the frozen model'):
    load_model(str(path.parent))


def test_a_vocabulary_that_is_a_path_says_what_reads_it():
  with pytest.raises(ValueError, match=r"vocabulary='spiece.model' cannot be used: .*load_vocabulary reads from"):
    load_model('t5_integers', vocabulary='spiece.model')
