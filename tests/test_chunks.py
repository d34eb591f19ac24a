"""Functions of logits in chunks are those of all logits, and logits without a target are not computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.losses import cross_entropy
from prompt_tuning.losses.chunks import at_targets, sum_at_targets
from prompt_tuning.losses.cross_entropy import log_probabilities

B, S, D, V = 3, 7, 5, 11
RANDOM = np.random.default_rng(0)
HIDDEN = jnp.asarray(RANDOM.normal(size=(B, S, D)), jnp.float32)
KERNEL = jnp.asarray(RANDOM.normal(size=(D, V)), jnp.float32)
TARGETS = jnp.asarray(RANDOM.integers(V, size=(B, S)))
WEIGHTS = jnp.asarray([[0, 0, 0, 1, 1, 0, 0], [0] * 7, [.5, 0, 1, 0, 2, 0, 1]], jnp.float32)


def project(kernel, x):
  return x @ kernel


@pytest.mark.parametrize('columns', [1, 2, 3])
def test_sums_and_gradients_are_those_of_all_logits(columns):
  loss = functools.partial(cross_entropy, z_loss=0.1, label_smoothing=0.2)

  def in_chunks(hidden, kernel, most):
    return sum_at_targets(loss, functools.partial(project, kernel), hidden, WEIGHTS, TARGETS, WEIGHTS, most=most)

  of_both = jax.jit(jax.value_and_grad(in_chunks, argnums=(0, 1), has_aux=True), static_argnums=2)
  wanted, found = of_both(HIDDEN, KERNEL, B * S * V), of_both(HIDDEN, KERNEL, B * columns * V)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, wanted)


@pytest.mark.parametrize('columns', [1, 2, 3])
def test_a_frozen_output_layer_changes_no_gradient_and_makes_each_product_once(columns):
  def of_each_row(logits, targets, weights):
    row = lambda *arrays: cross_entropy(*(array[None] for array in arrays), z_loss=0.1)
    return jax.vmap(row)(logits, targets, weights)

  def loss(hidden, frozen, most):
    output = lambda x: x @ KERNEL
    output.frozen = frozen
    sums, more = sum_at_targets(of_each_row, output, hidden, WEIGHTS, TARGETS, WEIGHTS, most=most)
    return jnp.sum(sums * jnp.asarray([1.0, 2.0, -3.0])), more

  gradient = jax.grad(loss, has_aux=True)
  wanted, found = gradient(HIDDEN, False, B * S * V), gradient(HIDDEN, True, B * columns * V)
  wanted, found = (wanted, loss(HIDDEN, False, B * S * V)), (found, loss(HIDDEN, True, B * columns * V))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, wanted)
  traced = jax.make_jaxpr(gradient, static_argnums=(1, 2))
  assert [str(traced(HIDDEN, frozen, B * columns * V)).count('dot_general') for frozen in (True, False)] == [2, 3]


@pytest.mark.parametrize('columns', [1, 4])
def test_results_stand_at_their_positions(columns):
  wanted = log_probabilities(project(KERNEL, HIDDEN), TARGETS) * (WEIGHTS != 0)
  found = at_targets(log_probabilities, functools.partial(project, KERNEL), HIDDEN, WEIGHTS, TARGETS,
                     most=B * columns * V)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_chunks_without_a_target_are_skipped():
  ran = []

  def counted(x):
    jax.debug.callback(lambda: ran.append(1))
    return x @ KERNEL

  jax.block_until_ready(sum_at_targets(lambda logits, *rest: jnp.sum(logits), counted, HIDDEN, WEIGHTS, most=B * V))
  jax.effects_barrier()
  assert len(ran) == 4  # the most targets of a row, of 7 columns


def test_a_gradient_keeps_nothing_of_a_chunk():
  rows, columns, width, vocabulary = 2, 64, 16, 4096
  hidden, kernel = jnp.ones((rows, columns, width)), jnp.ones((width, vocabulary))
  weights, targets = jnp.ones((rows, columns)), jnp.zeros((rows, columns), int)

  def loss(hidden, kernel):
    return sum_at_targets(cross_entropy, functools.partial(project, kernel), hidden, weights, targets, weights,
                          most=rows * vocabulary)[0]

  needed = jax.jit(jax.grad(loss)).lower(hidden, kernel).compile().memory_analysis().temp_size_in_bytes
  assert needed < 4 * 10 * (width + rows) * vocabulary  # all chunks: 64 times as much
