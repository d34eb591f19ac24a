"""Losses compared with NumPy formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning import losses

B, S, V = 3, 4, 7
cross_entropy = jax.jit(losses.cross_entropy, static_argnames=('z_loss', 'label_smoothing'))
log_likelihood = jax.jit(losses.log_likelihood)


@pytest.fixture
def scored():
  random = np.random.default_rng(0)
  weights = np.array([[1, 1, 1, 0], [1, 0.5, 0, 0], [0, 0, 0, 0]])
  return random.normal(size=(B, S, V)) * 3, random.integers(0, V, (B, S)), weights


def log_softmax(logits):
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize('z_loss', [0.0, 0.3])
@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_cross_entropy_is_the_formula(scored, z_loss, smoothing):
  logits, targets, weights = scored
  soft = np.where(np.arange(V) == targets[..., None], 1 - smoothing, smoothing / (V - 1))
  entropy = -(soft * np.log(np.where(soft > 0, soft, 1))).sum(-1)
  penalty = z_loss * np.log(np.exp(logits).sum(-1)) ** 2
  wanted = ((-(soft * log_softmax(logits)).sum(-1) - entropy + penalty) * weights).sum()
  total, sums = cross_entropy(jnp.asarray(logits, jnp.float32), targets, weights, z_loss=z_loss,
                              label_smoothing=smoothing)
  np.testing.assert_allclose(total, wanted, rtol=1e-5)
  np.testing.assert_allclose(sums['loss'], wanted, rtol=1e-5)
  np.testing.assert_allclose(sums['z_loss'], (penalty * weights).sum(), rtol=1e-5)
  np.testing.assert_allclose(sums['correct'], ((logits.argmax(-1) == targets) * weights).sum())
  assert sums['weights'] == 4.5


def test_a_perfect_prediction_costs_nothing_even_with_label_smoothing():
  targets = np.array([[2, 0]])
  soft = np.where(np.arange(V) == targets[..., None], 0.9, 0.1 / (V - 1))
  total, _ = cross_entropy(jnp.log(jnp.asarray(soft, jnp.float32)), targets, np.ones((1, 2)), label_smoothing=0.1)
  np.testing.assert_allclose(total, 0, atol=1e-6)


def test_large_logits_stay_finite():
  total, _ = cross_entropy(jnp.array([[[1e4, -1e4]]]), np.array([[1]]), np.ones((1, 1)))
  np.testing.assert_allclose(total, 2e4)


def test_log_likelihood_sums_the_weighted_targets_of_each_row(scored):
  logits, targets, weights = scored
  wanted = (np.take_along_axis(log_softmax(logits), targets[..., None], -1)[..., 0] * weights).sum(-1)
  np.testing.assert_allclose(log_likelihood(jnp.asarray(logits, jnp.float32), targets, weights), wanted, rtol=1e-5)
  assert wanted[2] == 0
