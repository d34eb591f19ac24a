"""Twenty training steps against those that T5X and PEFT took: gradient, optimizer and all.

Each step starts from the prompt that the other program had then, with our optimizer's state carried along. Trained
freely these models are chaotic: in d a rounding error grows about 2.2 times a step, and even a run in float64 leaves
T5X's trajectory. So free runs are compared only for the steps in which rounding is not what they show.
"""

import dataclasses
import functools
import itertools

import golden_models
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_tuning import prompts, trees
from prompt_tuning.training.optimizers import Adafactor, AdamW
from prompt_tuning.training.step import Loss, TrainState, make_step

STARTS = (0, 3, 1100000)
CASES = (('c', 0), ('c', 3), ('c', 1100000), ('d', 0), ('d', 1100000))


def at_one_of(starts):
  """Returns Adafactor for several first steps as one transformation; its state begins with which of them."""
  each = [Adafactor(0.3).build(start) for start in starts]

  def update(gradient, state, trained):
    chosen, inner = state
    updates, inner = jax.lax.switch(chosen, [other.update for other in each], gradient, inner, trained)
    return updates, (chosen, inner)

  return optax.GradientTransformation(lambda trained: (jnp.int32(0), each[0].init(trained)), update)


def tree_of(prompt):
  return trees.unflatten({prompts.PATH: jnp.asarray(prompt)})


def errors(step, params, batch, state, wanted, forced=True):
  """Returns how far each step ends from `wanted` [21, P, D], in parts of its norm, all that the steps report of the
  loss before them, and the last state."""
  found, reports = [], []
  for before, after in itertools.pairwise(wanted):
    if forced:
      state = dataclasses.replace(state, trained=tree_of(before))
    state, sums = step(params, state, batch)
    reports.append(jax.device_get(sums))
    found.append(np.linalg.norm(trees.flatten(state.trained)[prompts.PATH] - after) / np.linalg.norm(after))
  return np.array(found), {name: np.array([sums[name] for sums in reports]) for name in reports[0]}, state


@functools.cache
def t5x_step(shared, case):
  """Returns the compiled step of case 'c' or 'd', its batch, the model's parameters and the golden trajectory."""
  model = golden_models.t5x_model(shared, {'c': 'tiny', 'd': 'small'}[case])
  golden = np.load(shared / {'c': 't5x/c_train_tiny/golden.npz', 'd': 't5x/d_small/train_20.npz'}[case])
  batch = golden_models.make_batch(golden['encoder_input_tokens'], golden['decoder_target_tokens'], 5)
  transformation = at_one_of(STARTS)
  step = jax.jit(make_step(model.module, prompts.PromptTuning(prompts.Prompt(5)), transformation))
  return step, transformation, batch, model.params, golden


def t5x_errors(shared, case, start, **how):
  step, transformation, batch, params, golden = t5x_step(shared, case)
  trained = tree_of(golden['prompt0'])
  chosen = (jnp.int32(STARTS.index(start)), transformation.init(trained)[1])
  state = TrainState(jnp.int32(start), trained, chosen)
  return (*errors(step, params, batch, state, golden[f'start{start}_prompts'], **how),
          {name.removeprefix(f'start{start}_'): golden[name] for name in golden if name.startswith(f'start{start}_')})


@pytest.mark.parametrize(('case', 'start'), CASES)
def test_every_step_ends_where_t5xs_does(shared, case, start):
  found, sums, state, wanted = t5x_errors(shared, case, start)
  assert found.max() < 1e-4
  np.testing.assert_allclose(sums['loss'], wanted['loss'], rtol=1e-5)
  assert state.step == start + 20
  second_moments = optax.tree.get(state.optimizer, 'v')
  np.testing.assert_allclose(trees.flatten(second_moments)[prompts.PATH], wanted['final_v'], rtol=1e-3)
  if case == 'c':  # the golden data of d lacks them
    np.testing.assert_allclose(sums['z_loss'], wanted['z_loss'], rtol=1e-4)
    np.testing.assert_allclose(sums['correct'] / sums['weights'], wanted['accuracy'], atol=1e-6)


@pytest.mark.parametrize('start', STARTS)
def test_the_loss_of_the_last_prompt_is_t5xs(shared, start):
  step, transformation, batch, params, golden = t5x_step(shared, 'c')
  trained = tree_of(golden[f'start{start}_prompts'][-1])
  _, sums = step(params, TrainState(jnp.int32(start), trained, transformation.init(trained)), batch)
  np.testing.assert_allclose(sums['loss'], golden[f'start{start}_loss_after_20'], rtol=1e-5)


@pytest.mark.parametrize(('case', 'start'), CASES)
def test_a_free_run_begins_on_t5xs_trajectory_and_learns_as_much(shared, case, start):
  found, sums, _, wanted = t5x_errors(shared, case, start, forced=False)
  losses, wanted_losses = sums['loss'], wanted['loss']
  assert found[:5].max() < 1e-4
  np.testing.assert_allclose(losses[:5], wanted_losses[:5], rtol=1e-4)
  assert losses[0] - losses.min() > 0.8 * (wanted_losses[0] - wanted_losses.min())


def test_every_step_with_adamw_ends_where_pefts_does(shared):
  model = golden_models.hugging_face_model(shared, 't5_v11')
  golden = np.load(shared / 'hf/peft_t5_v11_train_prompt/golden.npz')
  batch = golden_models.make_batch(golden['input_ids'], np.maximum(golden['labels'], 0), 5)
  transformation = AdamW(0.3, weight_decay=0.01).build(0)
  loss = Loss(z_loss=0.0, normalizing_factor='tokens')
  step = jax.jit(make_step(model.module, prompts.PromptTuning(prompts.Prompt(5)), transformation, loss=loss))
  trained = tree_of(golden['prompts'][0])
  state = TrainState(jnp.int32(0), trained, transformation.init(trained))
  found, sums, _ = errors(step, model.params, batch, state, golden['prompts'])
  assert found.max() < 1e-4
  np.testing.assert_allclose(sums['scaled_loss'], golden['loss'][:20], rtol=1e-5)
