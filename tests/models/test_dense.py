"""Dense layers in bfloat16: what is rounded, and what is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.models import dense

B, IN, RANK, OUT = 7, 24, 2, 40


def random(shape, seed):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def layer():
  """Inputs, and a kernel of bfloat16 with an update so small that no weight would change."""
  down, up = random((IN, RANK), 0), 1e-4 * random((RANK, OUT), 1)
  kernel = jnp.asarray(1 + 0.5 * np.abs(random((IN, OUT), 2)), jnp.bfloat16)
  np.testing.assert_array_equal((kernel + down @ up).astype(jnp.bfloat16), kernel)
  return jnp.asarray(random((B, IN), 3), jnp.bfloat16), {'kernel': kernel, 'down': down, 'up': up}


def change(x, params, dtype):
  """Returns the change of the output by the update, and the exact one."""
  exact = np.asarray(x, np.float64) @ (params['down'].astype(np.float64) @ params['up'])
  frozen = {'kernel': params['kernel']}
  found, plain = (np.asarray(dense.apply(each, x, dtype), np.float64) for each in (params, frozen))
  return found - plain, exact


def test_a_small_update_of_a_bfloat16_kernel_changes_float32_outputs_exactly(layer):
  found, exact = change(*layer, jnp.float32)
  np.testing.assert_allclose(found, exact, atol=2e-5 * np.abs(exact).max() + 1e-5)
  assert np.abs(exact).max() > 3e-4


def test_outputs_of_bfloat16_round_the_sum_and_not_its_terms(layer):
  x, params = layer
  exact = np.asarray(x, np.float64) @ (np.asarray(params['kernel'], np.float64) + params['down'] @ params['up'])
  found = dense.apply(params, x, jnp.bfloat16)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8, atol=1e-5)
  larger = {**params, 'up': 100 * params['up']}
  found, exact = change(x, larger, jnp.bfloat16)
  assert abs(np.vdot(found, exact) / np.vdot(exact, exact) - 1) < 0.05


@pytest.mark.parametrize('stored', [jnp.float32, jnp.bfloat16])
def test_logits_of_bfloat16_activations_are_products_in_float32(stored):
  x, kernel = jnp.asarray(random((B, IN), 0), jnp.bfloat16), jnp.asarray(random((IN, OUT), 1), stored)
  logits = dense.apply({'kernel': kernel}, x, jnp.float32)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, np.asarray(x, np.float64) @ np.asarray(kernel, np.float64), atol=1e-5)


def test_hidden_layers_round_float32_kernels_to_the_activations_type():
  x, kernel = jnp.asarray(random((B, IN), 0), jnp.bfloat16), random((IN, OUT), 1)
  rounded = jnp.asarray(kernel, jnp.bfloat16)
  found = dense.apply({'kernel': kernel, 'bias': np.zeros(OUT, np.float32)}, x, jnp.bfloat16)
  np.testing.assert_array_equal(found, dense.apply({'kernel': rounded}, x, jnp.bfloat16))


@pytest.mark.parametrize('rows', [1, B])
def test_few_rows_of_float32_are_multiplied_with_bfloat16_as_exactly_as_with_float32(rows):
  x, kernel, back = random((rows, IN), 0), jnp.asarray(random((IN, OUT), 1), jnp.bfloat16), random((rows, OUT), 2)
  found, gradient = jax.vjp(lambda x: dense.apply({'kernel': kernel}, x, jnp.float32), x)
  exact = np.asarray(kernel, np.float64)
  np.testing.assert_allclose(found, x @ exact, atol=1e-5)
  np.testing.assert_allclose(gradient(back)[0], back @ exact.T, atol=1e-5)


@pytest.mark.parametrize('rows', [1, B, 100])
def test_products_of_bfloat16_round_activations_and_gradients_only(rows):
  x, kernel, back = random((rows, IN), 0), jnp.asarray(random((IN, OUT), 1), jnp.bfloat16), random((rows, OUT), 2)
  rounded = lambda array: np.asarray(jnp.asarray(array, jnp.bfloat16), np.float64)
  with jax.default_matmul_precision('bfloat16'):
    found, gradient = jax.vjp(lambda x: dense.apply({'kernel': kernel}, x, jnp.float32), x)
    given = gradient(back)[0]
  assert found.dtype == given.dtype == jnp.float32
  np.testing.assert_allclose(found, rounded(x) @ rounded(kernel), atol=1e-5)
  np.testing.assert_allclose(given, rounded(back) @ rounded(kernel).T, atol=1e-5)


def test_a_kernel_of_bfloat16_has_the_gradient_of_its_product():
  x, kernel = random((B, IN), 0), jnp.asarray(random((IN, OUT), 1), jnp.bfloat16)
  found = jax.grad(lambda kernel: dense.apply({'kernel': kernel}, x, jnp.float32).sum())(kernel)
  np.testing.assert_allclose(found.astype(np.float32), np.broadcast_to(x.sum(0)[:, None], (IN, OUT)), rtol=2**-7)
