"""An attention kernel, which the compiler cannot split, on a mesh: each device runs it on its rows and heads."""

import processes
import pytest

PROGRAM = '''
import functools
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from prompt_tuning.devices import meshes
from prompt_tuning.models import kernels

mesh = meshes.make_mesh(meshes.MeshShape(2, 2, 2))
random = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)
kernel, shapes = functools.partial(kernels.cudnn, implementation='xla'), []

def counted(*arrays):
  shapes.append([x.shape for x in arrays])
  return kernel(*arrays)

over = ('data', 'fsdp')
for rows in (8, 1):
  for bias in (draw(rows, 1, 6, 10), draw(1, 4, 6, 10)):
    query, keys, values = draw(rows, 4, 6, 8), draw(rows, 2, 10, 8), draw(rows, 2, 10, 8)
    wanted = jax.grad(lambda *x: jnp.sum(kernel(*x)**2), (0, 1, 2, 3))(query, keys, values, bias)
    loss = lambda *x: jnp.sum(kernels.on_each_device(counted, mesh)(*x)**2)
    found = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(query, keys, values, bias)
    assert shapes[-1][:2] == [(max(1, rows // 4), 2, 6, 8), (max(1, rows // 4), 1, 10, 8)], shapes
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
    if rows == 8:  # where rows are split already, as in a step
      mapped = jax.shard_map(lambda *x: jax.lax.psum(loss(*x), over), mesh=mesh, axis_names=set(over), out_specs=P(),
                             in_specs=tuple(P(over if len(x) > 1 else None) for x in (query, keys, values, bias)),
                             check_vma=False)
      found = jax.jit(jax.grad(mapped, (0, 1, 2, 3)))(query, keys, values, bias)
      assert shapes[-1][:2] == [(2, 2, 6, 8), (2, 1, 10, 8)], shapes
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
'''


@pytest.mark.slow
def test_each_device_runs_a_kernel_on_its_own_rows_and_heads():
  with processes.started(['-c', PROGRAM], devices=8) as (run,):
    assert run.ended(120) == 0, run.printed
