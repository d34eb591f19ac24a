"""An encoder prompt in Flaxformer against T5X's golden data: logits, losses, gradients, decodes, trained prompts."""

import functools
import itertools

import golden_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest

PROMPT = 'encoder/prompt/prompt/prompt'
FILES = {'tiny': ('t5x/a_plain_tiny/params_checkpoint_3.npz', 't5x/b_prompt_tiny/prompt_5x4.npy',
                  't5x/b_prompt_tiny/golden.npz', ''),
         'small': ('t5x/d_small/params.npz', 't5x/d_small/prompt_5x32.npy', 't5x/d_small/golden.npz', 'prompt_'),
         'own': ('t5x/parameters.npz', None, 't5x/encoder_decoder.npz', 'prompt_')}


def folder_of(shape):
  return golden_models.OWN if shape == 'own' else golden_models.shared_folder()


@pytest.fixture
def case(shape_file):
  """Returns the model of a shape, its parameters, the batch, and the golden arrays without their prefix."""
  import golden_t5x

  def load(shape, *bindings):
    params, prompt, golden, prefix = FILES[shape]
    folder = folder_of(shape)
    golden = np.load(folder / golden)
    prompt = golden['prompt'] if prompt is None else np.load(folder / prompt)
    tree = golden_t5x.tree_of({**np.load(folder / params), PROMPT: prompt})
    wanted = {name.removeprefix(prefix): golden[name] for name in golden.files if name.startswith(prefix)}
    model = golden_t5x.make('t5_1_1_prompt.gin', shape_file(shape), *bindings)
    return model, tree, golden_t5x.batch_of(golden), wanted

  return load


@pytest.mark.parametrize('shape', FILES)
def test_logits_loss_and_scores_are_t5xs(case, shape):
  model, params, batch, wanted = case(shape)
  np.testing.assert_allclose(model._compute_logits(params, batch), wanted['logits'], atol=5e-5)
  np.testing.assert_allclose(model.loss_fn(params, batch, None)[0], wanted['loss'], rtol=1e-5)
  np.testing.assert_allclose(model.score_batch(params, batch), wanted['score_batch'], rtol=1e-5)


def test_parameters_have_the_checkpoints_names_and_the_prompt_its_axes(case):
  import golden_t5x

  model, params, batch, _ = case('tiny')
  made = golden_t5x.variables(model, batch)
  assert golden_t5x.names_of(made['params']) == golden_t5x.names_of(params)
  assert made['params_axes']['encoder']['prompt']['prompt']['prompt_axes'].names == ('prompt', 'embed')
  first = made['params']['encoder']['prompt']['prompt']['prompt']
  assert first.shape == (5, 4) and 0 <= first.min() and first.max() < 0.5


def test_the_prompts_gradient_is_t5xs(case):
  model, params, batch, wanted = case('tiny')
  gradient = jax.grad(lambda params: model.loss_fn(params, batch, None)[0])(params)
  np.testing.assert_allclose(gradient['encoder']['prompt']['prompt']['prompt'], wanted['prompt_grad'], atol=1e-4)


def test_padding_changes_nothing(case):
  model, params, batch, _ = case('tiny')
  longer = batch | {'encoder_input_tokens': np.pad(batch['encoder_input_tokens'], ((0, 0), (0, 4)))}
  np.testing.assert_allclose(model.score_batch(params, longer), model.score_batch(params, batch), rtol=1e-5)


@pytest.mark.parametrize(('decodes', 'alpha', 'name'), [(4, 0.6, 'beam4_a06'), (1, 0.6, 'beam1_a06'),
                                                        (4, 0.0, 'beam4_a00')])
@pytest.mark.parametrize('shape', ['own', 'small'])
def test_beam_searches_are_t5xs(case, shape, decodes, alpha, name):
  from t5x import decoding

  model, params, batch, wanted = case(shape)
  model._decode_fn = functools.partial(decoding.beam_search, alpha=alpha)
  tokens, aux = model.predict_batch_with_aux(params, batch, num_decodes=decodes, return_all_decodes=True)
  np.testing.assert_array_equal(tokens, wanted[f'{name}_tokens'])
  np.testing.assert_allclose(aux['scores'], wanted[f'{name}_scores'], rtol=1e-4)


def test_greedy_decoding_is_t5xs(case):
  from t5x import decoding

  model, params, batch, wanted = case('small')
  model._decode_fn = functools.partial(decoding.temperature_sample, temperature=0.0)
  tokens, _ = model.predict_batch_with_aux(params, batch, return_all_decodes=True)
  np.testing.assert_array_equal(tokens, wanted['greedy_temp0_tokens'])


@pytest.mark.parametrize(('shape', 'file'), [('tiny', 't5x/c_train_tiny/golden.npz'),
                                             ('small', 't5x/d_small/train_20.npz'), ('own', 't5x/training.npz')])
def test_every_step_of_training_ends_where_t5xs_does(case, shape, file):
  import golden_t5x
  from t5x import train_state, trainer

  model, params, batch, _ = case(shape)
  golden = np.load(folder_of(shape) / file)
  state = train_state.FlaxOptimTrainState.create(
    model.optimizer_def, golden_t5x.variables(model, batch) | {'params': params})
  step = jax.jit(lambda state: trainer.train_with_lr(
    state, batch, learning_rate=0.3, dropout_rng=None, model=model, num_microbatches=None)[0])
  for start in (0, 1100000):
    optimizer = state._optimizer
    now = state.replace(_optimizer=optimizer.replace(state=optimizer.state.replace(step=jnp.int32(start))))
    wanted = golden[f'start{start}_prompts']
    for before, after in itertools.pairwise(wanted):
      now = step(now.replace_params(_with_prompt(params, before)))
      found = now.params['encoder']['prompt']['prompt']['prompt']
      assert np.linalg.norm(found - after) < 1e-4 * np.linalg.norm(after)
    assert int(now.step) == start + len(wanted) - 1
    jax.tree.map(np.testing.assert_array_equal, _with_prompt(now.params, before), _with_prompt(params, before))


def test_packed_rows_are_refused(case):
  model, params, batch, _ = case('tiny')
  packed = batch | {'encoder_segment_ids': np.ones_like(batch['encoder_input_tokens']),
                    'decoder_segment_ids': np.ones_like(batch['decoder_input_tokens'])}
  with pytest.raises(ValueError, match=r'The rows are packed.*pack = False'):
    model._compute_logits(params, packed)


def _with_prompt(params, prompt):
  return params | {'encoder': params['encoder'] | {'prompt': {'prompt': {'prompt': jnp.asarray(prompt)}}}}
