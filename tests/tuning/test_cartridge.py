"""A cartridge: a prefix whose first keys and values stay as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_every_method import DECODER_ONLY, batch_of

from prompt_tuning import trees
from prompt_tuning.training.optimizers import Adafactor, build
from prompt_tuning.training.step import TrainState, make_step
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.together import Together

TEXT = [5, 6, 7, 8, 9]
PAIR = ('decoder/prefix/keys', 'decoder/prefix/values')
DECAYED = optax.chain(optax.trace(0.0), optax.adamw(0.1, weight_decay=0.5))  # the first remembers the gradient


def cartridge(frozen):
  return Prefix(5, init_from=DECODER_ONLY.read([TEXT]).as_prefix(), frozen=frozen)


def stepped(method, optimizer):
  """Returns the flat tensors before and after two steps, and the optimizer's state."""
  trained = method.initialise(jax.random.key(0), DECODER_ONLY)
  before = jax.device_get(trees.flatten(trained))
  state, batch = TrainState(jnp.int32(0), trained, optimizer.init(trained)), batch_of(DECODER_ONLY, method.layout())
  step = jax.jit(make_step(DECODER_ONLY.module, method, optimizer))
  for _ in range(2):
    state, _ = step(DECODER_ONLY.params, state, batch)
  return before, jax.device_get(trees.flatten(state.trained)), state.optimizer


@pytest.mark.parametrize('frozen', [pytest.param(1, marks=pytest.mark.slow), 3])
def test_gradients_and_decay_reach_only_rows_that_are_not_frozen(frozen):
  before, after, optimizer = stepped(cartridge(frozen), DECAYED)
  for name in PAIR:
    gradient = np.asarray(trees.flatten(optimizer[0].trace)[name])
    assert not gradient[:, :frozen].any() and (gradient[1, frozen:] != 0).all()  # the window of layer 0 is short
    np.testing.assert_array_equal(after[name][:, :frozen], before[name][:, :frozen])
    assert (after[name][:, frozen:] != before[name][:, frozen:]).any(axis=(2, 3)).all()


@pytest.mark.slow
def test_frozen_rows_stay_in_a_prefix_that_is_trained_together():
  method = Together(cartridge(2), LowRank(1, '.*/query/kernel'))
  before, after, _ = stepped(method, build(Adafactor(0.1), 0))
  for name in PAIR:
    np.testing.assert_array_equal(after[name][:, :2], before[name][:, :2])
  assert all((after[name] != before[name]).any() for name in before)


def test_a_cartridge_has_a_rate_for_keys_and_values_of_tokens():
  assert cartridge(1).rate(DECODER_ONLY) == 0.02 and cartridge(0).rate(DECODER_ONLY) == Prefix(5).rate(DECODER_ONLY)


@pytest.mark.parametrize(('settings', 'message'), [
  ({'frozen': 5}, 'frozen=5 cannot be used: expected a whole number of at least 0 and below 5'),
  ({'frozen': -1}, 'frozen=-1 cannot be used'),
  ({'frozen': 1, 'hidden': 4}, 'frozen=1 and hidden=4 cannot be used together'),
])
def test_what_cannot_be_frozen_is_a_clear_error(settings, message):
  with pytest.raises(ValueError, match=message):
    Prefix(5, **settings)
