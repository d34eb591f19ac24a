"""Retrained parameters: their selection, and that their gradients are those of fine-tuning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prompt_tuning import trees
from prompt_tuning.losses import cross_entropy
from prompt_tuning.rows import layouts
from prompt_tuning.training.step import TrainState, make_step
from prompt_tuning.tuning.retrained import Retrained

BATCH = layouts.assemble([[layouts.Layout().example([7, 8, 9, 4, 1], [5, 6, 1])],
                          [layouts.Layout().example([10, 3, 1], [11, 1])]], {'encoder': 5, 'decoder': 3})


def chosen(model, *patterns):
  return list(trees.flatten(Retrained(patterns).initialise(jax.random.key(0), model)))


def test_patterns_choose_whole_names_layer_by_layer(tiny):
  assert chosen(tiny, r'decoder/layers_[02]/mlp/wo/kernel', 'encoder/encoder_norm/scale') == [
    'decoder/layers_0/mlp/wo/kernel', 'decoder/layers_2/mlp/wo/kernel', 'encoder/encoder_norm/scale']
  assert len(chosen(tiny, r'.*layer_norm/scale')) == 2 * 2 + 3 * 3
  assert len(chosen(tiny, r'.*')) == len(trees.unstack(trees.flatten(tiny.params)))


def test_copies_start_as_the_frozen_parameters(tiny):
  named = trees.unstack(trees.flatten(tiny.params))
  for name, copy in trees.flatten(Retrained().initialise(jax.random.key(0), tiny)).items():
    np.testing.assert_array_equal(copy, named[name])


def test_copies_of_half_precision_parameters_are_trained_in_float32(tiny):
  class Half:
    width = 12
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny.params)

  copies = trees.flatten(Retrained('encoder/encoder_norm/scale').initialise(jax.random.key(0), Half()))
  assert copies['encoder/encoder_norm/scale'].dtype == jnp.float32


def test_a_pattern_that_matches_nothing_is_named_with_the_nearest_parameter(tiny):
  with pytest.raises(ValueError, match=r"'decoder/layers_7/mlp/wo/kernel' matches no .* mean decoder/layers_./mlp/wo"):
    chosen(tiny, '.*/scale', 'decoder/layers_7/mlp/wo/kernel')
  with pytest.raises(ValueError, match=r"The pattern 'mlp' matches no parameter. Use a pattern that matches a whole"):
    chosen(tiny, 'mlp')


def test_one_pattern_may_be_given_as_text():
  assert Retrained('.*/scale') == Retrained(['.*/scale']) == Retrained(('.*/scale',))


def test_a_pattern_that_is_no_regular_expression_is_an_error():
  with pytest.raises(ValueError, match=r"The pattern '\*/scale' is not a regular expression .* Write \.\* to"):
    Retrained('*/scale')


def test_retraining_everything_has_the_gradient_of_full_fine_tuning(tiny):
  def loss(params):
    logits = tiny.module.apply({'params': params}, BATCH)
    return cross_entropy(logits, BATCH['decoder']['targets'], BATCH['decoder']['loss_weights'], z_loss=1e-4)[0]

  wanted = trees.unstack(trees.flatten(jax.jit(jax.grad(loss))(tiny.params)))
  method, remember = Retrained(), optax.trace(0.0)  # its state is the gradient
  trained = method.initialise(jax.random.key(0), tiny)
  state = TrainState(jnp.int32(0), trained, remember.init(trained))
  state, _ = jax.jit(make_step(tiny.module, method, remember))(tiny.params, state, BATCH)
  found = trees.flatten(state.optimizer.trace)
  assert found.keys() == wanted.keys()
  for name, gradient in wanted.items():
    np.testing.assert_allclose(found[name], gradient, atol=1e-5 * np.abs(gradient).max(), err_msg=name)
