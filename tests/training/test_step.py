"""One training step: only φ has gradients, and splitting or packing a batch does not change them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from programs_of_jax import equations

from prompt_tuning import prompts, trees
from prompt_tuning.losses import Loss, averages, pairwise_cosine
from prompt_tuning.models.compiled import apply_model
from prompt_tuning.rows import layouts
from prompt_tuning.training.optimizers import Adafactor, AdamW
from prompt_tuning.training.step import TrainState, jitted_step, make_step
from prompt_tuning.tuning.retrained import Retrained

P = 2
METHOD = prompts.PromptTuning(prompts.Prompt(P), layouts.before_eos)
EXAMPLES = [METHOD.layout().example(inputs, targets, loss_weight=weight) for inputs, targets, weight in (
  ([7, 8, 9, 1], [5, 6, 1], 1.0), ([10, 1], [11, 1], 0.5), ([12, 13, 14, 1], [16, 17, 1], 1.0), ([4, 3, 1], [1], 2.0))]
APART = layouts.assemble([[example] for example in EXAMPLES], {'encoder': 7, 'decoder': 3})


@pytest.fixture(scope='module')
def gradients(tiny):
  """Returns a function that returns a batch's gradient and sums; the step is compiled once per setting."""
  trained = METHOD.initialise(jax.random.key(1), tiny)
  remember = optax.trace(0.0)  # its state is the gradient

  @functools.cache
  def compiled(dropout_rate, **settings):
    module = tiny.module.clone(config=dataclasses.replace(tiny.module.config, dropout_rate=dropout_rate))
    return jax.jit(make_step(module, METHOD, remember, **settings))

  def run(batch, step=0, seed=0, dropout_rate=0.0, **settings):
    state = TrainState(jnp.int32(step), trained, remember.init(trained), jnp.uint32(seed))
    state, sums = compiled(dropout_rate, **settings)(tiny.params, state, batch)
    return np.asarray(trees.flatten(state.optimizer.trace)[prompts.PATH]), jax.device_get(sums)

  return run


def assert_same(found, wanted):
  np.testing.assert_allclose(found[0], wanted[0], atol=1e-5 * np.abs(wanted[0]).max())
  for name in wanted[1]:
    np.testing.assert_allclose(found[1][name], wanted[1][name], rtol=1e-5, err_msg=name)


def test_four_microbatches_are_one_batch_even_with_dropout(gradients):
  whole = gradients(APART, dropout_rate=0.3)
  assert_same(gradients(APART, dropout_rate=0.3, microbatches=4), whole)


def test_packed_rows_give_the_loss_and_gradient_of_unpacked_ones(gradients):
  first, second, third, fourth = EXAMPLES
  packed = layouts.assemble([[], [fourth, first], [second, third]], {'encoder': 12, 'decoder': 6})
  assert_same(gradients(packed), gradients(APART))


def test_dropout_changes_with_step_and_seed_and_not_with_the_row_that_an_example_stands_in(gradients):
  first, again, later, other = (
    gradients(APART, step=step, seed=seed, dropout_rate=0.3)[0] for step, seed in ((0, 0), (0, 0), (1, 0), (0, 2**31)))
  np.testing.assert_array_equal(first, again)
  for changed in (later, other):
    assert np.abs(first - changed).max() > 0.01 * np.abs(first).max()
  turned = jax.tree.map(lambda x: x[::-1], APART)  # rows keep their numbers
  np.testing.assert_allclose(gradients(turned, dropout_rate=0.3)[0], first, atol=1e-5 * np.abs(first).max())


def test_loss_weights_weigh_the_targets_gradients(gradients):
  total, sums = gradients(APART)
  parts = [gradients(layouts.assemble([[e] if i == b else [] for i, e in enumerate(EXAMPLES)],
                                      {'encoder': 7, 'decoder': 3})) for b in range(4)]
  np.testing.assert_allclose(sum(part for part, _ in parts), total, atol=1e-5 * np.abs(total).max())
  assert [float(part['weights']) for _, part in parts] == [3, 1, 3, 2]
  assert sums['weights'] == 9


def test_padding_rows_add_nothing(gradients):
  batch = layouts.assemble([[], [], [], []], {'encoder': 7, 'decoder': 3})
  gradient, sums = gradients(batch)
  assert not gradient.any() and sums['loss'] == 0


@pytest.mark.parametrize(('factor', 'scale'), [(None, 1.0), (4, 0.25), ('tokens', 0.2)])
def test_the_summed_loss_is_divided_by_the_normalizing_factor(factor, scale):
  np.testing.assert_allclose(Loss(normalizing_factor=factor).scale(jnp.float32(5)), scale, rtol=1e-6)


@pytest.mark.parametrize('factor', ['token', 0, -1.0])
def test_a_normalizing_factor_that_cannot_be_is_an_error(factor):
  with pytest.raises(ValueError, match=r'normalizing_factor=.*. Use None, a number above 0, or "tokens"'):
    Loss(normalizing_factor=factor)


def test_the_average_loss_of_fractional_weights_is_the_weighted_mean(gradients, tiny):
  given = np.array([0.5, 0.25, 0.0, 0.125])
  examples = [METHOD.layout().example(inputs, [target], loss_weight=weight) for inputs, target, weight in zip(
    ([7, 8, 1], [10, 1], [12, 1], [4, 3, 1]), (5, 6, 7, 8), given, strict=True)]
  batch = layouts.assemble([[example] for example in examples], {'encoder': 7, 'decoder': 3})
  conditioning = METHOD.condition(METHOD.initialise(jax.random.key(1), tiny), tiny)
  logits = np.asarray(apply_model(tiny.module, tiny.params, batch, conditioning), np.float64)[:, 0]
  log_z = np.log(np.exp(logits).sum(-1))
  each, right = log_z - logits[range(4), [5, 6, 7, 8]], logits.argmax(-1) == [5, 6, 7, 8]
  for weights in (given, given + (0, 0, 4, 0)):
    batch['decoder']['loss_weights'][:, 0] = weights
    gradient, sums = gradients(batch, loss=Loss(normalizing_factor='tokens'), microbatches=4)
    found = averages(sums)
    np.testing.assert_allclose(found['cross_ent_loss'], np.average(each, weights=weights), rtol=1e-5)
    np.testing.assert_allclose(found['z_loss'], np.average(1e-4 * log_z**2, weights=weights), rtol=1e-5)
    np.testing.assert_allclose(found['token_accuracy'], np.average(right, weights=weights), atol=1e-6)
    np.testing.assert_allclose(sums['scaled_loss'], found['loss'], rtol=1e-5)
    whole, _ = gradients(batch)
    np.testing.assert_allclose(gradient, whole / weights.sum(), atol=1e-5 * np.abs(gradient).max())


def test_people_read_averages_over_tokens():
  found = averages({'loss': 10.0, 'z_loss': 2.0, 'correct': 3.0, 'weights': 4.0})
  assert found == {'loss': 2.5, 'cross_ent_loss': 2.0, 'z_loss': 0.5, 'token_accuracy': 0.75}


@pytest.mark.parametrize('of', [pytest.param('logits', marks=pytest.mark.slow), 'hidden'])
def test_the_step_minimises_the_loss_that_is_chosen_of_logits_or_hidden_states(gradients, tiny, of):
  def minimised(vectors):
    conditioning = METHOD.condition({'encoder': {'prompt': {'prompt': {'prompt': vectors}}}}, tiny)
    outputs = tiny.module.apply({'params': tiny.params}, APART, conditioning, hidden=of == 'hidden')
    return pairwise_cosine(outputs, APART['decoder']['targets'], APART['decoder']['loss_weights'])[0]

  vectors = METHOD.initialise(jax.random.key(1), tiny)['encoder']['prompt']['prompt']['prompt']
  loss, wanted = jax.jit(jax.value_and_grad(minimised))(vectors)
  gradient, sums = gradients(APART, loss=Loss(function=pairwise_cosine, of=of))
  np.testing.assert_allclose(gradient, wanted, atol=1e-5 * np.abs(wanted).max())
  np.testing.assert_allclose(averages(sums)['loss'], loss, rtol=1e-5)
  assert set(averages(sums)) == {'loss'}


def test_a_loss_that_compares_rows_cannot_be_cut_into_microbatches(gradients):
  with pytest.raises(ValueError, match='pairwise_cosine compares all rows of a batch, but the batch is split into 2'):
    gradients(APART, loss=Loss(function=pairwise_cosine), microbatches=2)


@pytest.mark.parametrize('microbatches', [None, 4])
def test_a_methods_penalty_is_added_once_a_step_whatever_the_loss_is_divided_by(gradients, tiny, microbatches):
  target = np.random.default_rng(0).normal(size=(P, 12)).astype(np.float32)
  method = dataclasses.replace(METHOD, wayward=prompts.Wayward(target, 0.25))
  loss = Loss(normalizing_factor='tokens')
  trained, remember = METHOD.initialise(jax.random.key(1), tiny), optax.trace(0.0)
  state = TrainState(jnp.int32(0), trained, remember.init(trained))
  step = jax.jit(make_step(tiny.module, method, remember, loss=loss, microbatches=microbatches))
  state, sums = step(tiny.params, state, APART)
  difference = trees.flatten(trained)[prompts.PATH] - target
  plain, _ = gradients(APART, loss=loss)
  wanted = plain + 0.5 * difference
  found = trees.flatten(state.optimizer.trace)[prompts.PATH]
  np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
  np.testing.assert_allclose(sums['penalty'], 0.25 * (difference**2).sum(), rtol=1e-5)


def test_runs_of_equal_settings_share_a_compiled_step_and_others_do_not(tiny):
  settings = {'module': tiny.module, 'method': METHOD, 'optimizer': Adafactor(), 'start_step': 7}
  other = tiny.module.clone(config=dataclasses.replace(tiny.module.config, dropout_rate=0.2))
  step = jitted_step(**settings)
  assert jitted_step(**settings | {'module': tiny.module.clone(), 'optimizer': Adafactor()}) is step
  for changes in ({'module': other}, {'optimizer': Adafactor(0.2)}, {'start_step': 8}, {'microbatches': 2},
                  {'loss': Loss(z_loss=0.1)}, {'method': dataclasses.replace(METHOD, placement=layouts.after_eos)}):
    assert jitted_step(**settings | changes) is not step, changes
  unhashable = settings | {'optimizer': AdamW(0.3, decayed=['.*'])}
  assert jitted_step(**unhashable) is not jitted_step(**unhashable)


def products(jaxpr):
  """Returns the shapes of all matrix products and all sums into rows, at any depth."""
  return {out.aval.shape for each in equations(jaxpr) if each.primitive.name in ('dot_general', 'scatter-add')
          for out in each.outvars}


def traced(tiny, method):
  optimizer = optax.adam(0.1)
  trained = jax.eval_shape(lambda: method.initialise(jax.random.key(0), tiny))
  state = TrainState(jnp.int32(0), trained, jax.eval_shape(optimizer.init, trained))
  step = make_step(tiny.module, method, optimizer)
  return jax.make_jaxpr(step, return_shape=True)(tiny.params, state, APART)


def test_no_gradient_of_a_frozen_weight_is_ever_computed(tiny):
  weights = {shape for leaf in trees.unstack(trees.flatten(tiny.params)).values() if leaf.ndim == 2
             for shape in (leaf.shape, leaf.shape[::-1])}
  for_prompt, _ = traced(tiny, METHOD)
  found = products(for_prompt.jaxpr)
  assert (4, 7, 15) in found, 'the forward pass is seen: [B, T, D] times [D, H·K]'
  assert not found & weights
  for_everything, _ = traced(tiny, Retrained())
  kernels = {shape for shape in weights if shape not in ((3, 6), (6, 3))}  # of position biases gathered
  seen = products(for_everything.jaxpr) & kernels
  assert {frozenset(shape) for shape in seen} == {frozenset(shape) for shape in kernels}


def test_a_step_gives_back_nothing_larger_than_what_is_trained(tiny):
  _, (state, sums) = traced(tiny, METHOD)
  assert [leaf.shape for leaf in jax.tree.leaves(state.trained)] == [(P, 12)]
  assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 3 * P * 12 + 3  # φ, Adam's two, two counters and the seed
  assert all(leaf.shape == () for leaf in jax.tree.leaves(sums))
