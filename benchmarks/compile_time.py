"""Compares the time to compile a training step of 24 layers with that of 4: T5, and families of decoder-only models.

  python benchmarks/compile_time.py [--families qwen3_5 gpt_oss] [--repetitions 5]

Layers, or groups of layers of different kinds, are scanned, so it hardly grows. Families have the toy widths of
tests/models/families, and T5 has 2+2 and 24+24 layers, so that the figures are about the compiler; nothing is taken
from the cache of compiled programs.
"""

import argparse
import dataclasses
import functools
import itertools
import pathlib
import statistics
from typing import Any

import contest
import jax
import jax.numpy as jnp

from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.loading import load_model, module_of
from prompt_tuning.models.t5 import T5, T5Config
from prompt_tuning.prompts import Prompt, PromptTuning
from prompt_tuning.rows import layouts
from prompt_tuning.training.optimizers import Adafactor
from prompt_tuning.training.step import TrainState, make_step

FAMILIES = pathlib.Path(__file__).parents[1] / 'tests' / 'models' / 'families'
SOME = ('llama_mqa_llama3', 'gemma3_sparse', 'gpt_neox', 'bloom', 'gpt_oss', 'qwen3_moe', 'qwen3_5', 'gemma4')
_TABLE = '| | {} layers, s | {} layers, s | ratio |\n|---|---|---|---|'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--repetitions', type=int, default=5)
  parser.add_argument('--families', nargs='*', default=SOME, help='folders of tests/models/families')
  options = parser.parse_args()
  print(_TABLE.format('2+2', '24+24'))
  for how in ('none', 'full'):
    compare(f'T5, rematerialise = {how!r}', lambda layers, how=how: T5(
      T5Config(128, 16, 2, 8, 32, layers, layers, rematerialise=how)), 2, 24, options.repetitions)
  print('\n' + _TABLE.format(4, 24))
  for name in options.families:
    config = load_model(str(FAMILIES / name)).module.config
    few = config.layers if config.shared_layers else 4  # with as many shared layers in proportion
    compare(name if few == 4 else f'{name}, {few} layers', lambda layers, config=config: module_of(
      deeper(config, layers)), few, 24, options.repetitions)


def compare(name: str, make: Any, few: int, many: int, repetitions: int) -> None:
  """Prints the row of the table for modules that `make` makes of a number of layers."""
  compile_step(make(2 * few))  # what only the first compilation of a process pays for
  times: dict[int, list[float]] = {few: [], many: []}
  for _ in range(repetitions):
    for layers, seconds in times.items():
      seconds.append(contest.seconds(functools.partial(compile_step, make(layers))))
  print(f'| {name} | {statistics.median(times[few]):.2f} | {statistics.median(times[many]):.2f} '
        f'| {contest.paired_ratio(times[many], times[few]):.2f} |', flush=True)


def deeper(config: Any, layers: int) -> Any:
  """Returns a config with so many layers, whose kinds repeat."""
  of_layers = {field.name: value for field in dataclasses.fields(config)
               if isinstance(value := getattr(config, field.name), tuple) and len(value) == config.layers
               and field.name != 'mlp_activations'}
  return dataclasses.replace(config, layers=layers, shared_layers=config.shared_layers * layers // config.layers, **{
    name: tuple(itertools.islice(itertools.cycle(value), layers)) for name, value in of_layers.items()})


def compile_step(module: Any) -> None:
  """Traces and compiles the training step of a module with a prompt of 5 vectors."""
  method, optimizer = PromptTuning(Prompt(5)), Adafactor().build(0)
  layout = module.layout(method.layout())
  batch = layouts.assemble([[layout.example(range(3, 19), range(3, 10))] for _ in range(2)], {
    'encoder': 21, 'decoder': 7} if isinstance(module, T5) else {'decoder': 28})
  params = jax.eval_shape(module.init, jax.random.key(0), batch)['params']
  trained = method.initialise(jax.random.key(1), LanguageModel(module, params))
  state = TrainState(jnp.int32(0), trained, optimizer.init(trained))
  jax.jit(make_step(module, method, optimizer), donate_argnums=1).lower(params, state, batch).compile()


if __name__ == '__main__':
  main()
