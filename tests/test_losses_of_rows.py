"""Losses over pairs of rows, and the margin loss over label words, compared with NumPy formulas in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.losses import Loss, margin, pairwise_cosine, pairwise_distance

B, T, V = 5, 4, 7
CLASSES = np.array([3, 5, 3, 5, 3])
PLACES = np.array([0, 2, 1, 3, 0])  # where each row's target stands
jitted = functools.cache(jax.jit)
jitted_margin = jax.jit(margin, static_argnames=('labels', 'margin'))


def batch(z, classes=CLASSES, places=PLACES):
  """Returns outputs with z_b at the target position of row b and noise elsewhere, and their targets and weights."""
  rows = np.arange(len(z))
  outputs = np.random.default_rng(1).normal(size=(len(z), T, z.shape[1]))
  targets, weights = np.full((len(z), T), 6), np.zeros((len(z), T))
  outputs[rows, places], targets[rows, places], weights[rows, places] = z, classes, 1
  return jnp.asarray(outputs, jnp.float32), targets, weights


def cosines(z, same):
  """torch's cosine_embedding_loss, averaged over all ordered pairs."""
  length = np.sqrt((z**2).sum(1) + 1e-12)
  cosine = z @ z.T / np.outer(length, length)
  return np.where(same, 1 - cosine, np.maximum(0, cosine)).mean()


def distances(z, same):
  """torch's pairwise_distance, summed over ordered pairs of one class, plus its reciprocals over other pairs."""
  distance = np.sqrt(((z[:, None] - z[None] + 1e-6) ** 2).sum(-1))
  return np.where(same, distance, 1 / distance).sum()


FORMULAS = [(pairwise_cosine, cosines), (pairwise_distance, distances)]


@pytest.fixture
def z():
  return np.random.default_rng(0).normal(size=(B, V)) * 3


@pytest.mark.parametrize(('loss', 'formula'), FORMULAS)
def test_pairs_are_compared_by_torchs_formula_at_each_rows_target(loss, formula, z):
  wanted = formula(z, CLASSES[:, None] == CLASSES)
  total, sums = jitted(loss)(*batch(z))
  np.testing.assert_allclose(total, wanted, rtol=1e-5)
  assert sums['loss'] == total and sums['weights'] == 1


def test_pairs_of_a_batch_worked_out_by_hand():
  rows = batch(np.array([[3.0, 4.0], [4.0, 3.0]]), np.array([3, 5]), PLACES[:2])
  np.testing.assert_allclose(jitted(pairwise_cosine)(*rows)[0], 0.96 / 2, rtol=1e-5)
  np.testing.assert_allclose(jitted(pairwise_distance)(*rows)[0], 2 / np.sqrt(2), rtol=1e-5)


@pytest.mark.parametrize(('loss', 'formula'), FORMULAS)
def test_rows_of_padding_are_in_no_pair(loss, formula, z):
  outputs, targets, weights = batch(z)
  weights[[1, 4]] = 0
  left = [0, 2, 3]
  wanted = formula(z[left], CLASSES[left][:, None] == CLASSES[left])
  np.testing.assert_allclose(jitted(loss)(outputs, targets, weights)[0], wanted, rtol=1e-5)
  total, sums = jitted(loss)(outputs, targets, weights * 0)
  assert total == 0 and sums['weights'] == 0


@pytest.mark.parametrize('loss', [pairwise_cosine, pairwise_distance])
def test_a_class_of_several_tokens_is_one_class_wherever_it_stands(loss, z):
  outputs, _, _ = batch(z[:3], CLASSES[:3], [1, 2, 1])
  targets = np.array([[6, 3, 4, 6], [6, 6, 3, 4], [6, 3, 5, 6]])
  weights = np.array([[0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 1, 0]])
  np.testing.assert_allclose(jitted(loss)(outputs, targets, weights)[0],
                             jitted(loss)(*batch(z[:3], np.array([0, 0, 1]), [1, 2, 1]))[0], rtol=1e-5)


@pytest.mark.parametrize('loss', [pairwise_cosine, pairwise_distance])
@pytest.mark.parametrize('alike', [0.0, 2.0])
def test_gradients_are_finite_with_identical_rows_and_with_zeros(loss, alike, z):
  z[:4] = alike
  outputs, targets, weights = batch(z)
  gradient = jax.jit(jax.grad(lambda x: loss(x, targets, weights)[0]))(outputs)
  assert np.isfinite(gradient).all()
  assert np.abs(gradient[4, 0]).max() > 0 and not gradient[:, 1:][weights[:, 1:] == 0].any()


@pytest.mark.parametrize('loss', [pairwise_cosine, pairwise_distance])
def test_gradients_are_those_of_differences(loss, z):
  outputs, targets, weights = batch(z)
  rows = np.arange(B)
  gradient = np.asarray(jax.jit(jax.grad(lambda x: loss(x, targets, weights)[0]))(outputs))[rows, PLACES]
  formula = dict(FORMULAS)[loss]
  same = CLASSES[:, None] == CLASSES
  for b, v in ((0, 2), (3, 5)):
    step = np.zeros_like(z)
    step[b, v] = 1e-4
    np.testing.assert_allclose(gradient[b, v], (formula(z + step, same) - formula(z - step, same)) / 2e-4, rtol=1e-3)


def test_the_margin_is_kept_to_the_best_other_label_alone():
  z = np.zeros((3, V))
  z[:, [3, 5, 2]] = [[2.0, 0.5, -1.0], [2.0, 0.5, 3.0], [0.0, 4.0, 0.0]]
  z[:, 0] = 100.0  # no label word
  outputs, targets, weights = batch(z, np.array([3, 5, 5]), PLACES[:3])
  weights[1] *= 0.5
  total, sums = jitted_margin(outputs, targets, weights, labels=(3, 5, 2), margin=2.0)
  np.testing.assert_allclose(total, 0.5 + 0.5 * 4.5 + 0, rtol=1e-6)
  assert (sums['correct'], sums['weights']) == (2, 2.5)
  parts = [jitted_margin(outputs[i], targets[i], weights[i], labels=(3, 5, 2), margin=2.0)[0]
           for i in (slice(0, 1), slice(1, 3))]
  np.testing.assert_allclose(sum(parts), total, rtol=1e-6)


def test_a_margin_of_zero_is_the_perceptrons():
  z = np.zeros((2, V))
  z[:, [3, 5]] = [[1.0, 1.5], [1.0, 1.5]]
  total, sums = jitted_margin(*batch(z, np.array([3, 5]), PLACES[:2]), labels=(3, 5), margin=0.0)
  assert (total, sums['correct']) == (0.5, 1)


def test_a_target_that_is_no_label_is_an_error_on_the_host_and_nan_on_the_device(z):
  outputs, targets, weights = batch(z)
  assert np.isnan(jitted_margin(outputs, targets, weights, labels=(3, 4))[0])
  of = lambda *labels: Loss(function=functools.partial(margin, labels=labels))
  rows = {'decoder': {'targets': targets, 'loss_weights': weights}}
  with pytest.raises(ValueError, match=r'A target begins with the token 5, .* \[3, 4\]'):
    of(3, 4).check(rows)
  with pytest.raises(ValueError, match=r'begin with the tokens \[3, 3\]. Give at least two label words with'):
    of(3, 3).check(rows)
  of(3, 4, 5).check(rows)
  Loss().check(rows)
  weights[CLASSES == 5] = 0  # padding may hold anything
  of(3, 4).check(rows)
  assert np.isfinite(jitted_margin(outputs, targets, weights, labels=(3, 4))[0])


def test_a_loss_that_compares_rows_wants_them_together_and_others_want_words():
  pairs = Loss(function=pairwise_cosine, of='hidden')
  pairs.require_whole_batches(1)
  for given, found in (((2,), 'split into 2 microbatches'), ((None, True), 'rows hold several examples')):
    with pytest.raises(ValueError, match=rf'pairwise_cosine compares all rows .*{found}. Set num_microbatches'):
      pairs.require_whole_batches(*given)
    Loss(function=functools.partial(margin, labels=(3, 4))).require_whole_batches(*given)
  with pytest.raises(ValueError, match=r'The loss cross_entropy needs logits, but got of="hidden". Use of="logits"'):
    Loss(of='hidden')
  with pytest.raises(ValueError, match=r"""The loss got of='states'. Use "logits" or "hidden".""" ):
    Loss(of='states')
