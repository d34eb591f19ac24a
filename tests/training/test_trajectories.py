"""Training steps against those of T5X and PEFT: gradients and optimizer.

Each step starts from the other program's prompt at that step, with our optimizer's state carried along. Trained freely,
these models are chaotic: in d a rounding error grows about 2.2 times per step, and even a float64 run leaves T5X's
trajectory. Free runs are therefore compared only for the first steps, before rounding dominates.
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
from prompt_tuning.rows import layouts
from prompt_tuning.training.optimizers import Adafactor, AdamW
from prompt_tuning.training.step import Loss, TrainState, make_step

STARTS = (0, 3, 1100000)
CASES = (('own', 0), ('own', 3), ('own', 1100000), ('c', 0), ('c', 3), ('c', 1100000), ('d', 0), ('d', 1100000))


def at_one_of(starts):
  """Returns Adafactor for several first steps as one transformation; its state begins with the first step."""
  each = [Adafactor(0.3).build(start) for start in starts]

  def update(gradient, state, trained):
    chosen, inner = state
    updates, inner = jax.lax.switch(chosen, [other.update for other in each], gradient, inner, trained)
    return updates, (chosen, inner)

  return optax.GradientTransformation(lambda trained: (jnp.int32(0), each[0].init(trained)), update)


def tree_of(prompt, stack='encoder'):
  return trees.unflatten({f'{stack}/prompt/prompt/prompt': jnp.asarray(prompt)})


def errors(step, params, batch, state, wanted, forced=True, stack='encoder'):
  """Returns the distance of each step's end from `wanted` [steps + 1, P, D], relative to its norm, the steps' reported
  losses, and the final state."""
  found, reports = [], []
  for before, after in itertools.pairwise(wanted):
    if forced:
      state = dataclasses.replace(state, trained=tree_of(before, stack))
    state, sums = step(params, state, batch)
    reports.append(jax.device_get(sums))
    (now,) = trees.flatten(state.trained).values()
    found.append(np.linalg.norm(now - after) / np.linalg.norm(after))
  return np.array(found), {name: np.array([sums[name] for sums in reports]) for name in reports[0]}, state


@functools.cache
def t5x_step(case):
  """Returns the compiled step of a case, its batch, the model's parameters and the golden trajectory."""
  name = {'own': 'own', 'c': 'tiny', 'd': 'small'}[case]
  model = golden_models.t5x_model(name)
  golden = np.load(golden_models.shared_folder() / 't5x/c_train_tiny/golden.npz' if case == 'c' else
                   golden_models.t5x_files(name).training)
  length = len(golden['prompt0'])
  batch = golden_models.make_batch(golden['encoder_input_tokens'], golden['decoder_target_tokens'], length)
  transformation = at_one_of(STARTS)
  step = jax.jit(make_step(model.module, prompts.PromptTuning(prompts.Prompt(length)), transformation))
  return step, transformation, batch, model.params, golden


def t5x_errors(case, start, **how):
  step, transformation, batch, params, golden = t5x_step(case)
  trained = tree_of(golden['prompt0'])
  chosen = (jnp.int32(STARTS.index(start)), transformation.init(trained)[1])
  state = TrainState(jnp.int32(start), trained, chosen)
  return (*errors(step, params, batch, state, golden[f'start{start}_prompts'], **how),
          {name.removeprefix(f'start{start}_'): golden[name] for name in golden if name.startswith(f'start{start}_')})


@pytest.mark.parametrize(('case', 'start'), CASES)
def test_every_step_ends_where_t5xs_does(case, start):
  found, sums, state, wanted = t5x_errors(case, start)
  assert found.max() < 1e-4
  np.testing.assert_allclose(sums['loss'], wanted['loss'], rtol=1e-5)
  assert state.step == start + len(wanted['loss'])
  second_moments = optax.tree.get(state.optimizer, 'v')
  np.testing.assert_allclose(trees.flatten(second_moments)[prompts.PATH], wanted['final_v'], rtol=1e-3)
  if case != 'd':  # its golden data lacks them
    np.testing.assert_allclose(sums['z_loss'], wanted['z_loss'], rtol=1e-4)
    np.testing.assert_allclose(sums['correct'] / sums['weights'], wanted['accuracy'], atol=1e-6)


@pytest.mark.parametrize('case', ['own', 'c'])
@pytest.mark.parametrize('start', STARTS)
def test_the_loss_of_the_last_prompt_is_t5xs(case, start):
  step, transformation, batch, params, golden = t5x_step(case)
  trained = tree_of(golden[f'start{start}_prompts'][-1])
  _, sums = step(params, TrainState(jnp.int32(start), trained, transformation.init(trained)), batch)
  np.testing.assert_allclose(sums['loss'], golden[f'start{start}_loss_after{"_20" if case == "c" else ""}'], rtol=1e-5)


@pytest.mark.parametrize(('case', 'start'), CASES)
def test_a_free_run_begins_on_t5xs_trajectory_and_learns_as_much(case, start):
  found, sums, _, wanted = t5x_errors(case, start, forced=False)
  losses, wanted_losses = sums['loss'], wanted['loss']
  few = 3 if case == 'own' else 5  # in 'own', a rounding error grows seven times per step
  assert found[:few].max() < 1e-4
  np.testing.assert_allclose(losses[:few], wanted_losses[:few], rtol=1e-4)
  assert losses[0] - losses.min() > 0.8 * (wanted_losses[0] - wanted_losses.min())


@pytest.mark.parametrize('source', ['own', 'shared'])
def test_every_step_with_adamw_ends_where_pefts_does(source):
  model = golden_models.hugging_face_model('own_t5_v11' if source == 'own' else 't5_v11')
  golden = np.load(golden_models.OWN / 'hf/t5_v11_training.npz' if source == 'own' else
                   golden_models.shared_folder() / 'hf/peft_t5_v11_train_prompt/golden.npz')
  batch = golden_models.make_batch(golden['input_ids'], np.maximum(golden['labels'], 0), 5)
  transformation = AdamW(0.3, weight_decay=0.01).build(0)
  loss = Loss(z_loss=0.0, normalizing_factor='tokens')
  step = jax.jit(make_step(model.module, prompts.PromptTuning(prompts.Prompt(5)), transformation, loss=loss))
  trained = tree_of(golden['prompts'][0])
  state = TrainState(jnp.int32(0), trained, transformation.init(trained))
  found, sums, _ = errors(step, model.params, batch, state, golden['prompts'])
  assert found.max() < 1e-4
  np.testing.assert_allclose(sums['scaled_loss'], golden['loss'][:len(golden['grads'])], rtol=1e-5)


def test_every_step_of_a_causal_models_prompt_ends_where_pefts_does():
  model = golden_models.hugging_face_model('own_gpt2_bare')
  golden = np.load(golden_models.OWN / 'hf/gpt2_bare_training.npz')
  layout = model.layout(layouts.Layout(5))
  ids = [row[row > 0] for row in golden['input_ids']]
  rows = [[layout.example(row[labels < 0], row[labels > 0])] for row, labels in zip(
    ids, (labels[:len(row)] for row, labels in zip(ids, golden['labels'], strict=True)), strict=True)]
  batch = layouts.assemble(rows, {'decoder': golden['input_ids'].shape[1] + 5})
  transformation = AdamW(0.3, weight_decay=0.01).build(0)
  step = jax.jit(make_step(model.module, prompts.PromptTuning(prompts.Prompt(5)), transformation,
                           loss=Loss(z_loss=0.0, normalizing_factor='tokens')))
  trained = tree_of(golden['prompts'][0], 'decoder')
  state = TrainState(jnp.int32(0), trained, transformation.init(trained))
  found, sums, _ = errors(step, model.params, batch, state, golden['prompts'], stack='decoder')
  assert found.max() < 1e-4
  np.testing.assert_allclose(sums['scaled_loss'], golden['loss'], rtol=1e-5)
