"""Compares the time to compile a training step of 24+24 layers with that of 2+2.

  python benchmarks/compile_time.py

Layers are scanned, so it hardly grows. A toy width, so that the figures are about the compiler; nothing is taken
from the cache of compiled programs.
"""

import argparse
import functools
import statistics

import contest
import jax
import jax.numpy as jnp

from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.t5 import T5, T5Config
from prompt_tuning.prompts import Prompt, PromptTuning
from prompt_tuning.rows import layouts
from prompt_tuning.training.optimizers import Adafactor
from prompt_tuning.training.step import TrainState, make_step


def compile_step(layers: int, rematerialise: str) -> None:
  """Traces and compiles the step of a toy T5 1.1 with so many layers in each stack."""
  layout = layouts.Layout(5)
  batch = layouts.assemble([[layout.example(range(3, 19), range(3, 10))] for _ in range(2)],
                           {'encoder': 21, 'decoder': 7})
  module = T5(T5Config(128, 16, 2, 8, 32, layers, layers, rematerialise=rematerialise))
  params = jax.eval_shape(module.init, jax.random.key(0), batch)['params']
  method, optimizer = PromptTuning(Prompt(5)), Adafactor().build(0)
  trained = method.initialise(jax.random.key(1), LanguageModel(module, params))
  state = TrainState(jnp.int32(0), trained, optimizer.init(trained))
  jax.jit(make_step(module, method, optimizer), donate_argnums=1).lower(params, state, batch).compile()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--repetitions', type=int, default=5)
  options = parser.parse_args()
  print('| | 2+2 layers, s | 24+24 layers, s | ratio |\n|---|---|---|---|')
  for rematerialise in ('none', 'full'):
    compile_step(3, rematerialise)  # what only the first compilation of a process pays for
    times: dict[int, list[float]] = {2: [], 24: []}
    for _ in range(options.repetitions):
      for layers, seconds in times.items():
        seconds.append(contest.seconds(functools.partial(compile_step, layers, rematerialise)))
    ratio = contest.paired_ratio(times[24], times[2])
    print(f'| rematerialise = {rematerialise!r} | {statistics.median(times[2]):.2f} '
          f'| {statistics.median(times[24]):.2f} | {ratio:.2f} |')


if __name__ == '__main__':
  main()
