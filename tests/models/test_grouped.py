"""Products of rows with the matrix of their group, against each row alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.models import grouped

random = np.random.default_rng(0)


def arrays(sizes, dtype=np.float32):
  return (jnp.asarray(random.normal(size=shape), dtype) for shape in ((sum(sizes), 6), (len(sizes), 6, 4)))


@pytest.mark.parametrize('sizes', [(3, 0, 1, 5), (0, 0, 7), (1, 0, 0), (150, 3, 0, 70)])
@pytest.mark.parametrize('block', [1, 4, 64])
def test_blocks_give_every_row_times_the_matrix_of_its_group_and_its_gradient(sizes, block):
  rows, matrices = arrays(sizes)
  groups, back = np.repeat(np.arange(len(sizes)), sizes), random.normal(size=(sum(sizes), 4)).astype(np.float32)
  multiply = lambda rows, matrices: grouped._in_blocks(block, jnp.float32, rows, matrices, jnp.array(sizes))
  found, pull = jax.vjp(jax.jit(multiply), rows, matrices)
  np.testing.assert_allclose(found, np.einsum('mi,mio->mo', rows, matrices[groups]), atol=1e-5)
  of_rows, of_matrices = pull(back)
  np.testing.assert_allclose(of_rows, np.einsum('mo,mio->mi', back, matrices[groups]), atol=1e-5)
  wanted = np.zeros_like(matrices)
  np.add.at(wanted, groups, np.einsum('mi,mo->mio', rows, back))
  np.testing.assert_allclose(of_matrices, wanted, atol=1e-4)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_blocks_are_ragged_dot_to_rounding(dtype):
  rows, matrices = arrays((9, 0, 2), dtype)
  found, wanted = (grouped.product(rows, matrices, jnp.array((9, 0, 2)), platform=platform, dtype=jnp.dtype(dtype))
                   for platform in ('cpu', 'tpu'))
  assert found.dtype == wanted.dtype == dtype
  np.testing.assert_allclose(np.asarray(found, np.float32), np.asarray(wanted, np.float32),
                             atol=1e-5 if dtype == 'float32' else 0.05)


@pytest.mark.parametrize(('platform', 'rows', 'groups', 'block'), [
  ('tpu', 512, 8, 0), ('gpu', 8, 8, 0), ('cpu', 8, 64, 1), ('cpu', 16, 8, 4), ('cpu', 512, 64, 16),
  ('cpu', 9000, 8, 64)])
def test_a_block_is_about_as_long_as_a_group(platform, rows, groups, block):
  assert grouped.choose(platform, rows, groups) == block


def test_frozen_matrices_cost_no_gradient():
  rows, matrices = arrays((3, 5))
  loss = lambda *given: jnp.sum(grouped.product(*given, jnp.array((3, 5)), platform='cpu', dtype=jnp.float32)**2)
  compiled = [jax.jit(jax.grad(loss, of)).lower(rows, matrices).compile().as_text() for of in (0, 1)]
  assert ['f32[2,6,4]{2,1,0} dot(' in text for text in compiled] == [False, True]
