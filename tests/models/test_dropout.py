"""Dropout: its effect on values, and the independence of a row's mask from other rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.models.dropout import drop
from prompt_tuning.rows import layouts

ROWS = [[layouts.Layout().example(inputs, targets)] for inputs, targets in (
  ([7, 8, 9, 1], [5, 1]), ([3, 4, 1], [6, 7, 1]), ([10, 11, 12, 13], [8, 9, 1]))]


def keys_of(rows):
  return jax.vmap(lambda row: jax.random.fold_in(jax.random.key(0), row))(jnp.asarray(rows))


def test_what_is_kept_is_scaled_up_so_that_the_mean_stays():
  found = np.asarray(drop(jnp.full((50, 40, 30), 2.0), keys_of(range(50)), 0.25, site=1, over=(1, 2)))
  values, counts = np.unique(found, return_counts=True)
  np.testing.assert_allclose(values, [0, 2 / 0.75], rtol=1e-6)
  assert abs(counts[0] / found.size - 0.25) < 0.01


def test_a_mask_is_shared_along_the_axes_that_are_not_named():
  found = np.asarray(drop(jnp.ones((4, 6, 50)), keys_of(range(4)), 0.5, site=1, over=(2,)))
  assert (found == found[:, :1]).all()
  assert (found[0] != found[1]).any()


def test_no_key_or_no_rate_is_no_dropout_to_the_bit():
  x = jnp.linspace(0, 1, 12).reshape(3, 4)
  assert drop(x, None, 0.5, site=0, over=(1,)) is x
  assert drop(x, keys_of(range(3)), 0.0, site=0, over=(1,)) is x


USED = []  # the keys of all masks of the last call


@pytest.fixture(scope='module')
def dropping(tiny):
  """Returns a function of row numbers that returns the rows' logits with a dropout rate of one half."""
  module = tiny.module.clone(config=dataclasses.replace(tiny.module.config, dropout_rate=0.5))
  bernoulli = jax.random.bernoulli

  def recorded(key, *args, **kwargs):
    jax.debug.callback(lambda data: USED.append(tuple(data.tolist())), jax.random.key_data(key))
    return bernoulli(key, *args, **kwargs)

  @jax.jit
  def run(batch, keys):
    return module.apply({'params': tiny.params}, batch, dropout=keys)

  def logits(rows, numbers=None):
    USED.clear()
    batch = layouts.assemble([ROWS[row] for row in rows], {'encoder': 5, 'decoder': 3})
    return np.asarray(run(batch, keys_of(rows if numbers is None else numbers)))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax.random, 'bernoulli', recorded)
    logits([0, 1, 2])
  return logits


def test_a_rows_mask_does_not_depend_on_the_rows_beside_it(dropping):
  np.testing.assert_allclose(dropping([0, 1, 2])[1], dropping([1, 2, 2])[0], atol=2e-5)


def test_another_number_of_the_row_gives_another_mask(dropping):
  assert np.abs(dropping([0, 1, 2])[1] - dropping([0, 1, 2], [0, 5, 2])[1]).max() > 0.1


def test_every_place_that_drops_has_a_mask_of_its_own(dropping):
  dropping([0, 1, 2])
  jax.effects_barrier()
  # A row: 2 encoder layers of 4 places, 3 decoder layers of 6, and one before and one after each stack.
  assert len(USED) == len(set(USED)) == 3 * (2 * 4 + 3 * 6 + 4)
