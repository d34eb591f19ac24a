"""The optimizer and every gin file of the plug-in."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ROOT / 'prompt_tuning/t5x_plugin/configs'
MODELS = sorted(path.name for path in (CONFIGS / 'models').glob('*_prompt.gin'))
BATCH = {name: np.ones((2, length), np.int32) for name, length in (
  ('encoder_input_tokens', 7), ('decoder_input_tokens', 3), ('decoder_target_tokens', 3))}
TOY = ["seqio.SentencePieceVocabulary.sentencepiece_model_file = '{}'", 'NUM_EMBEDDINGS = 11', 'NUM_HEADS = 2',
       'HEAD_DIM = 3', 'EMBED_DIM = 4', 'MLP_DIM = 5', 'NUM_ENCODER_LAYERS = 1', 'NUM_DECODER_LAYERS = 1']


@pytest.fixture
def params():
  return {'encoder': {'mlp': jnp.ones((2, 3)), 'prompt': {'prompt': {'prompt': jnp.ones((5, 4))}}}}


@pytest.fixture
def optimizer():
  from t5x import adafactor

  from prompt_tuning.t5x_plugin import optimizers

  return optimizers.Partial(adafactor.Adafactor(decay_rate=0.8, step_offset=0), ['.*/prompt/.*'])


def test_what_is_frozen_has_no_state_that_is_saved(optimizer, params):
  made = optimizer.create(params)
  states = made.state_dict()['state']['param_states']
  assert list(states) == ['encoder'] and list(states['encoder']) == ['prompt']


def test_the_state_is_read_back_also_from_what_t5xs_optimizer_saves(optimizer, params):
  made = optimizer.create(params)
  saved = made.state_dict()
  ours = saved['state']['param_states']
  for states in (ours, {'encoder': {**ours['encoder'], 'mlp': None}}):
    again = made.restore_state({**saved, 'state': {**saved['state'], 'step': 7, 'param_states': states}})
    assert again.state.step == 7
    assert again.state.param_states['encoder']['mlp'] is None
    np.testing.assert_array_equal(again.state.param_states['encoder']['prompt']['prompt']['prompt'].v, np.zeros((5, 4)))


def test_a_pattern_that_matches_nothing_is_named(params):
  from t5x import adafactor

  from prompt_tuning.t5x_plugin import optimizers

  with pytest.raises(ValueError, match=r"No parameter matches PROMPT_REGEX=\['prefix'\]; the first are"):
    optimizers.Partial(adafactor.Adafactor(decay_rate=0.8, step_offset=0), ['prefix']).create(params)


@pytest.mark.parametrize('file', MODELS)
def test_every_model_file_gives_a_model(file, shared):
  import golden_t5x

  toy = [line.format(shared / 't5x_native/sentencepiece.model') for line in TOY]
  model = golden_t5x.make(file, *toy)
  made = golden_t5x.variables(model, BATCH)
  assert {array.shape for array in _prompts(made['params'])} == {(100, 4)}


@pytest.mark.parametrize(('file', 'bindings'), [
  ('from_class_labels', ["CLASS_LABELS = ['good', 'very bad']", "INITIAL_CHECKPOINT_PATH = '{tiny}'"]),
  ('from_class_labels_numpy', ["CLASS_LABELS = ['good', 'very bad']", "EMBEDDING_FILE = '{rows}'"]),
  ('from_sampled_vocab', ["INITIAL_CHECKPOINT_PATH = '{tiny}'"]),
  ('from_sampled_vocab_numpy', ["EMBEDDING_FILE = '{rows}'"]), ('from_file', ["PROMPT_FILE = '{prompt}'"])])
def test_first_values_are_those_of_the_rest_of_the_package(file, bindings, shared, tmp_path):
  import golden_t5x

  from prompt_tuning.models.loading import load_embedding

  rows = load_embedding(str(shared / 't5x_native/checkpoint_3'))
  np.save(tmp_path / 'rows.npy', rows)
  places = {'tiny': shared / 't5x_native/checkpoint_3', 'rows': tmp_path / 'rows.npy',
            'prompt': shared / 't5x/b_prompt_tiny/prompt_5x4.npy'}
  toy = [line.format(shared / 't5x_native/sentencepiece.model') for line in TOY]
  model = golden_t5x.make('t5_1_1_prompt.gin', CONFIGS / f'prompts/{file}.gin', *toy, 'PROMPT_LENGTH = 5',
                          *(line.format(**places) for line in bindings))
  (found,) = _prompts(golden_t5x.variables(model, BATCH)['params'])
  if file == 'from_file':
    np.testing.assert_array_equal(found, np.load(places['prompt']))
    return
  if 'labels' in file:
    import sentencepiece

    words = sentencepiece.SentencePieceProcessor(str(shared / 't5x_native/sentencepiece.model'))
    wanted = [np.asarray(rows)[words.encode(text)].mean(0) for text in ('good', 'very bad')]
    np.testing.assert_allclose(found[:2], wanted, rtol=1e-6)
    found = found[2:]
  assert all((np.asarray(rows)[:5000] == row).all(1).any() for row in np.asarray(found))


@pytest.mark.parametrize('file', ['beam_search', 'greedy', 'nucleus_sampling'])
def test_every_decoding_file_chooses_how_a_model_answers(file, shared):
  import gin
  import golden_t5x

  toy = [line.format(shared / 't5x_native/sentencepiece.model') for line in TOY]
  model = golden_t5x.make('t5_1_1_prompt.gin', CONFIGS / f'models/decoding/{file}.gin', *toy)
  assert model.decode_fn.__name__ == ('beam_search' if file == 'beam_search' else 'temperature_sample')
  assert gin.query_parameter('EncoderDecoderModel.predict_batch_with_aux.num_decodes') == (
    4 if file == 'beam_search' else 1)


def test_a_prompt_that_does_not_stand_in_front_is_an_error(tmp_path):
  from prompt_tuning.evaluation.saved import SavedPrompt
  from prompt_tuning.rows import layouts
  from prompt_tuning.t5x_plugin.prompts import np_load

  vectors = np.ones((2, 4), np.float32)
  SavedPrompt(vectors, layouts.after_eos).save(str(tmp_path / 'behind.safetensors'))
  SavedPrompt(vectors).save(str(tmp_path / 'in_front.safetensors'))
  np.testing.assert_array_equal(np_load(str(tmp_path / 'in_front.safetensors')), vectors)
  with pytest.raises(ValueError, match=r'behind.safetensors was trained with the placement after_eos.*prefix_prompt'):
    np_load(str(tmp_path / 'behind.safetensors'))


def test_saved_prompts_are_removed_when_their_checkpoints_are_gone(tmp_path):
  from prompt_tuning.t5x_plugin.checkpoints import NumpyPrompts

  save = NumpyPrompts(str(tmp_path))
  for step in (1, 2, 3, 4):  # T5X removes checkpoint_1 after the third save
    (tmp_path / f'checkpoint_{step - 1}').mkdir()
    if step == 4:
      (tmp_path / 'checkpoint_1').rmdir()
    prompt = {'prompt': {'prompt': {'prompt': np.full((1, 2), float(step))}}}
    state = {'state': {'step': step}, 'target': {'encoder': prompt}}
    assert save(state, None) == (state, None)
  saved = tmp_path / 'numpy_checkpoints'
  assert {path.name for path in saved.iterdir()} == {'checkpoint_2', 'checkpoint_3', 'checkpoint_4'}
  assert (np.load(saved / 'checkpoint_4/encoder.prompt.prompt.prompt') == 4).all()


def test_a_state_without_a_prompt_saves_none(tmp_path):
  from prompt_tuning.t5x_plugin.checkpoints import NumpyPrompts

  NumpyPrompts(str(tmp_path))({'state': {'step': 1}, 'target': {'encoder': {'scale': np.ones(2)}}}, None)
  assert not list(tmp_path.iterdir())


def _prompts(params):
  from flax import traverse_util

  return [array for path, array in traverse_util.flatten_dict(params, sep='/').items()
          if path.endswith('/prompt/prompt/prompt')]
