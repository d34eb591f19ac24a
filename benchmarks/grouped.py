"""Products of tokens with the matrices of their experts on a CPU: blocks of one expert beside `ragged_dot`.

  python benchmarks/grouped.py

Float32. Tokens choose experts at random. The programs take turns; figures are medians.
"""

import argparse
import functools
import statistics

import contest
import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.models import grouped

# Tokens, how many experts each chooses, experts, and the widths of their matrices.
CASES = ((256, 2, 8, 256, 512), (8, 2, 8, 512, 1024), (1, 8, 64, 512, 192), (64, 8, 64, 512, 192))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rounds', type=int, default=7)
  options = parser.parse_args()
  print('| tokens | experts | of | widths | ms, blocks | ragged_dot, blocks = 1 | ms, gradient too | ragged_dot, '
        'blocks = 1 |\n' + '|---' * 8 + '|')
  for tokens, chosen, experts, inner, outer in CASES:
    random = np.random.default_rng(0)
    sizes = jnp.asarray(np.bincount(random.integers(0, experts, tokens * chosen), minlength=experts))
    rows, back = (jnp.asarray(random.normal(size=(tokens * chosen, width)), jnp.float32) for width in (inner, outer))
    matrices = jnp.asarray(random.normal(size=(experts, inner, outer)), jnp.float32)
    figures = []
    for gradient in (False, True):
      programs = {platform: compiled(platform, gradient) for platform in ('cpu', 'tpu')}  # the TPU's is ragged_dot
      times = {platform: [] for platform in programs}
      for number in range(-1, options.rounds):
        for platform, program in programs.items():
          run = functools.partial(program, rows, matrices, sizes, back)
          times[platform] += [contest.seconds(lambda run=run: run().block_until_ready())] * (number >= 0)
      figures += [f'{1000 * statistics.median(times["cpu"]):.2f}',
                  f'{contest.paired_ratio(times["tpu"], times["cpu"]):.1f}']
    print(f'| {tokens} | {chosen} | {experts} | {inner}, {outer} | {" | ".join(figures)} |', flush=True)


def compiled(platform: str, gradient: bool):
  """Returns a function of rows, matrices, sizes and the gradient of the products."""
  multiply = functools.partial(grouped.product, platform=platform, dtype=jnp.float32)
  if not gradient:
    return jax.jit(lambda rows, matrices, sizes, back: multiply(rows, matrices, sizes))
  return jax.jit(lambda rows, matrices, sizes, back: jax.grad(
    lambda rows: jnp.vdot(multiply(rows, matrices, sizes)**2, back))(rows))


if __name__ == '__main__':
  main()
