"""Adafactor and AdamW against trajectories of T5X and torch, and the files' own gradients."""

import json

import golden_models
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_tuning.training.optimizers import Adafactor, AdamW, rate_at
from prompt_tuning.training.schedules import create_schedule


def run(optimizer, start_step, first, gradients):
  """Returns the parameter after each of the given gradients, and the final state."""
  transformation = optimizer.build(start_step)

  @jax.jit
  def step(carry, gradient):
    parameter, state = carry
    updates, state = transformation.update(gradient, state, parameter)
    parameter = optax.apply_updates(parameter, updates)
    return (parameter, state), parameter

  first = jnp.asarray(first)
  (_, state), found = jax.lax.scan(step, (first, transformation.init(first)), jnp.asarray(gradients))
  return np.asarray(found), state


def relative_errors(found, wanted):
  axes = tuple(range(1, wanted.ndim))
  return np.sqrt(((found - wanted) ** 2).sum(axes) / (wanted**2).sum(axes))


@pytest.mark.parametrize(('name', 'settings'), [
  ('unfactored_9x7_start0', {}),
  ('unfactored_9x7_start1100000', {}),
  ('factored_9x7_start0', {'min_dim_size_to_factor': 7}),
  ('factored_9x7_start1100000', {'min_dim_size_to_factor': 7}),
  ('beta1_9x7_start0', {'beta1': 0.9}),
  ('paramscale_9x7_start0', {'multiply_by_parameter_scale': True}),
  ('unfactored_20x48_start0', {}),
  ('unfactored_20x48_start1100000', {}),
  ('factored_130x128_start0', {}),
  ('factored_130x128_start1100000', {}),
  ('beta1_20x48_start0', {'beta1': 0.9}),
  ('paramscale_20x48_start0', {'multiply_by_parameter_scale': True}),
])
def test_adafactor_takes_t5xs_steps(name, settings):
  folder = golden_models.OWN / 't5x' if '9x7' in name else golden_models.shared_folder() / 't5x/f_misc'
  golden = np.load(folder / f'adafactor_{name}.npz')
  optimizer = Adafactor(float(golden['learning_rate']), **settings)
  found, state = run(optimizer, int(golden['start_step']), golden['param0'], golden['grads'])
  assert relative_errors(found, golden['params']).max() < 1e-4
  for part in ('v', 'v_row', 'v_col', *(['m'] if 'beta1' in settings else [])):
    kept = optax.tree.get(state, 'ema' if part == 'm' else part)
    assert kept.shape == golden[part].shape
    np.testing.assert_allclose(kept, golden[part], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('source', ['own', 'c'])
def test_adafactors_settings_are_those_of_t5xs_prompt_tuning(source):
  if source == 'own':
    wanted = json.loads(str(np.load(golden_models.t5x_files('own').training)['hyper_params']))
  else:
    folder = golden_models.shared_folder() / 't5x/c_train_tiny'
    wanted = json.loads((folder / 'adafactor_hyper_params.json').read_text())
  found = Adafactor(0.3)
  for name in ('factored', 'multiply_by_parameter_scale', 'beta1', 'decay_rate', 'step_offset', 'clipping_threshold',
               'weight_decay_rate', 'min_dim_size_to_factor'):
    assert getattr(found, name) == wanted[name], name


def test_a_step_offset_is_taken_off_the_global_step():
  gradients = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
  shifted, _ = run(Adafactor(0.3, step_offset=1000), 1000, np.ones((4, 5)), gradients)
  fresh, _ = run(Adafactor(0.3), 0, np.ones((4, 5)), gradients)
  np.testing.assert_array_equal(shifted, fresh)


def test_a_prompt_is_factored_only_where_both_dimensions_are_large_and_it_may_be():
  sizes = lambda shape, **settings: sum(leaf.size for leaf in jax.tree.leaves(Adafactor(**settings).build(0).init(
    jnp.zeros(shape))))
  assert sizes((127, 300)) > 127 * 300
  assert sizes((128, 300)) < 1000
  assert sizes((128, 300), factored=False) > 128 * 300


@pytest.mark.parametrize('source', ['own', 'shared'])
def test_adamw_takes_torchs_steps(source):
  golden = np.load(golden_models.OWN / 'hf/t5_v11_training.npz' if source == 'own' else
                   golden_models.shared_folder() / 'hf/peft_t5_v11_train_prompt/golden.npz')
  found, _ = run(AdamW(0.3, weight_decay=0.01), 0, golden['prompts'][0], golden['grads'])
  assert relative_errors(found, golden['prompts'][1:]).max() < 1e-5


def test_adamw_clips_the_gradients_global_norm():
  gradient = np.array([[30.0, 40.0]], np.float32)  # norm 50; Adam's first step only shows the sign, its second the rest
  other = np.array([[0.3, 0.2]], np.float32)
  found, _ = run(AdamW(0.1, clip=1.0), 0, np.zeros(2), np.concatenate([gradient, other]))
  wanted, _ = run(AdamW(0.1), 0, np.zeros(2), np.concatenate([gradient / 50, other]))
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize('make', [Adafactor, AdamW])
def test_a_schedule_counts_global_steps(make):
  schedule = create_schedule('linear_decay', 0.5, warmup_steps=100, total_steps=110)
  gradients = np.ones((2, 3, 4), np.float32)
  found, _ = run(make(schedule), 104, np.zeros((3, 4)), gradients)
  fixed = [run(make(rate), 104, np.zeros((3, 4)), gradients)[0] for rate in (0.5 * 0.6, 0.5 * 0.5)]
  np.testing.assert_allclose(found[0], fixed[0][0], rtol=1e-5)
  np.testing.assert_allclose(found[1] - found[0], fixed[1][1] - fixed[1][0], rtol=1e-3)
  rates = [rate_at(make(each), 104)['learning_rate'] for each in (schedule, 0.2)]
  np.testing.assert_allclose(rates, [0.3, 0.2], rtol=1e-6)


def test_the_optimizers_state_is_as_small_as_what_is_trained():
  state = AdamW().build(0).init({'encoder/prompt/prompt/prompt': jnp.zeros((5, 8))})
  assert sum(leaf.size for leaf in jax.tree.leaves(state)) <= 2 * 5 * 8 + 2


def test_weight_decay_may_apply_to_chosen_names_alone():
  params = {'a': {'kernel': jnp.ones(2), 'bias': jnp.ones(2)}}
  optimizer = AdamW(0.1, weight_decay=0.5, decayed=('.*/kernel',)).build(0)
  updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
  np.testing.assert_allclose(updates['a']['kernel'], -0.1 * 0.5)
  np.testing.assert_array_equal(updates['a']['bias'], 0)
