"""Products of activations with frozen matrices of bfloat16 on a CPU, beside those of float32.

  python benchmarks/bfloat16.py

GFLOP/s of 20 products one after the other, which is what a layer's products of one token of each row cost. "converted":
the matrix is converted to float32 first. "three parts" and "one part": see `dense.product`; three parts are as exact as
float32. The programs take turns; figures are medians.
"""

import argparse
import functools
import statistics

import contest
import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.models import dense

WIDTHS, ROWS, MATRICES = ((576, 1536), (1536, 576)), (1, 4, 16, 64, 1024), 20


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rounds', type=int, default=15)
  options = parser.parse_args()
  products = {
    'float32': lambda x, kernel: x @ kernel,
    'converted': lambda x, kernel: x @ kernel.astype(jnp.float32),
    'three parts': lambda x, kernel: dense.of_parts(3, x, kernel),
    'one part': lambda x, kernel: dense.of_parts(1, x, kernel),
  }
  print('| rows | widths | ' + ' | '.join(products) + ' |\n' + '|---' * (2 + len(products)) + '|')
  for inner, outer in WIDTHS:
    for rows in ROWS:
      random = np.random.default_rng(0)
      x = jnp.asarray(random.normal(size=(rows, inner)), jnp.float32)
      kernels = [jnp.asarray(random.normal(size=(inner, outer)), jnp.bfloat16) for _ in range(MATRICES)]
      given = {name: [each.astype(jnp.float32) for each in kernels] if name == 'float32' else kernels
               for name in products}
      programs = {name: jax.jit(lambda x, kernels, one=one: [one(x, each) for each in kernels])
                  for name, one in products.items()}
      times = {name: [] for name in programs}
      for number in range(-1, options.rounds):
        for name, program in programs.items():
          run = functools.partial(program, x, given[name])
          times[name] += [contest.seconds(lambda run=run: jax.block_until_ready(run()))] * (number >= 0)
      work = 2 * rows * inner * outer * MATRICES / 1e9
      print(f'| {rows} | {inner}, {outer} | ' +
            ' | '.join(f'{work / statistics.median(each):.1f}' for each in times.values()) + ' |', flush=True)


if __name__ == '__main__':
  main()
