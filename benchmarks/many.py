"""Compares one run of 8 prompts with 8 runs of PEFT, and with 8 runs of ours: steps, whole runs, peak memory.

  python benchmarks/many.py                                # where the extra `peers` is installed
  python benchmarks/many.py --peer_python path/to/python   # PEFT lives in an environment of its own
  python benchmarks/many.py --quick                        # toy sizes, few steps: does it run?

GPT-2 small (loss on all text) and T5 1.1 small, random weights, float32, batch 8 for each prompt, inputs 128,
targets 8, P = 100, dropout 0. A step of "one run" trains all prompts; the others are multiplied by their number. A
whole run is a process from its start to the end of its last step, compilation included: one run of PEFT, times the
number of prompts; of ours alone, a first run that compiles and further ones that find the program in the cache.
Contestants are processes that take turns.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import contest
from sizes import SIZES

HERE = pathlib.Path(__file__).parent
TOGETHER, ALONE, PEFT = 'one run', 'runs of ours', 'runs of PEFT'
WANTED = {'gpt2': 0.65, 'small': 0.9}  # of the time of PEFT's steps


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--sizes', nargs='+', choices=SIZES, default=['gpt2', 'small'])
  parser.add_argument('--prompts', type=int, default=8, help='prompts of one run')
  parser.add_argument('--at_once', type=int, help='prompts whose rows are run at once')
  parser.add_argument('--blocks', type=int, default=5, help='turns of each contestant')
  parser.add_argument('--steps', type=int, default=50, help='steps of a whole run; 0 leaves these out')
  parser.add_argument('--quick', action='store_true', help='toy sizes, two turns, three steps')
  parser.add_argument('--peer_python', default=sys.executable, help='an interpreter that can import peft and torch')
  parser.add_argument('--without_peer', action='store_true', help='leave PEFT out')
  parser.add_argument('--contestant', choices=[TOGETHER], help=argparse.SUPPRESS)
  parser.add_argument('--cache', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.contestant:
    together(options.sizes[0], options.prompts, options.at_once, options.cache)
    return
  if options.quick:
    options.sizes, options.blocks, options.steps = ['toy_gpt2', 'toy'], 2, 3
  for name in options.sizes:
    print('\n'.join(compare(name, options)), flush=True)


def compare(name: str, options: argparse.Namespace) -> list[str]:
  """Returns the table of one size, in Markdown."""
  count = options.prompts
  with tempfile.TemporaryDirectory() as cache:
    whole = {title: whole_run(command, options.steps) for title, command in commands(
      name, options, f'{cache}/first').items()} if options.steps else {}
    again = whole_run(commands(name, options, f'{cache}/first')[ALONE], options.steps) if options.steps else 0.0
    with contextlib.ExitStack() as stack:
      contestants = {title: stack.enter_context(contest.Contestant(command))
                     for title, command in commands(name, options, f'{cache}/first').items()}
      for contestant in contestants.values():
        contestant.ask('steps 2')
      times = contest.take_turns(contestants, blocks=options.blocks, steps=2)
      memory = {title: contestant.ask('memory') for title, contestant in contestants.items()}
  times = {title: [seconds * (1 if title == TOGETHER else count) for seconds in found]
           for title, found in times.items()}
  of_whole = {title: seconds if title == TOGETHER else seconds + (count - 1) * (again if title == ALONE else seconds)
              for title, seconds in whole.items()}
  against = PEFT if PEFT in times else ALONE
  lines = [f'### {name}, {count} prompts', '',
           f'| | s for a step of all | {against} = 1 | s for {options.steps} steps, start included | {against} = 1 '
           f'| peak MB of a process | {count} processes of {against} = 1 |', '|---|---|---|---|---|---|---|']
  for title, found in times.items():
    ratio = contest.paired_ratio(found, times[against])
    of_run = (f'{of_whole[title]:.0f} | {of_whole[title] / of_whole[against]:.2f}' if of_whole else ' | ')
    lines.append(f'| {"" if title == TOGETHER else f"{count} "}{title} | {statistics.median(found):.3f} | {ratio:.2f} '
                 f'| {of_run} | {memory[title] / 1e6:.0f} '
                 f'| {memory[title] * (1 if title == TOGETHER else count) / memory[against] / count:.2f} |')
  wanted = f'steps {WANTED[name]}, ' if name in WANTED else ''
  return [*lines, '', f'Wanted of one run, PEFT = 1: {wanted}whole runs 0.5, peak memory 0.25.', '']


def commands(name: str, options: argparse.Namespace, cache: str) -> dict[str, list[str]]:
  """Returns how each contestant is started; `cache` has the compiled programs of ours."""
  at_once = [] if options.at_once is None else ['--at_once', str(options.at_once)]
  found = {TOGETHER: [sys.executable, __file__, '--contestant', TOGETHER, '--sizes', name, '--cache', cache,
                      '--prompts', str(options.prompts), *at_once],
           ALONE: [sys.executable, str(HERE / 'our_step.py'), '--size', name, '--cache', cache]}
  peer = [options.peer_python, str(HERE / 'peft_step.py'), '--size', name]
  return found if options.without_peer else found | {PEFT: peer}


def whole_run(command: Sequence[str], steps: int) -> float:
  """Returns the seconds from the start of a contestant to the end of its last step."""
  begun = time.perf_counter()
  with contest.Contestant(command) as contestant:
    contestant.ask(f'steps {steps}')
    return time.perf_counter() - begun


def together(name: str, count: int, at_once: int | None, cache: str) -> None:
  """Serves the step of one run of `count` prompts."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  import our_step

  from prompt_tuning.devices import compilation
  from prompt_tuning.prompts import Prompt, PromptTuning
  from prompt_tuning.rows.assembling import beside
  from prompt_tuning.training.many_step import make_many_step, parts
  from prompt_tuning.training.optimizers import Adafactor
  from prompt_tuning.training.step import TrainState

  size = SIZES[name]
  compilation.use_cache(cache)
  method = PromptTuning(Prompt(size.prompt))
  module, batches = our_step.made(size, asked=method.layout())
  model = our_step.frozen_model(module, batches[0])
  optimizers = [Adafactor(0.1 * (i + 1)).build(0) for i in range(count)]
  states = []
  for i, optimizer in enumerate(optimizers):
    trained = method.initialise(jax.random.key(i), model)
    states.append(TrainState(jnp.int32(0), trained, optimizer.init(trained), jnp.uint32(i)))
  states, sizes = tuple(states), [size.batch] * count
  step_of = make_many_step(module, [method] * count, optimizers, batch_sizes=sizes,
                           microbatches=parts(sizes, None, at_once, None))
  joined = [beside([batches[(i + j) % len(batches)] for i in range(count)]) for j in range(len(batches))]
  run = compilation.compile_step(jax.jit(step_of, donate_argnums=1), model.params, states, joined[0])
  done = 0

  def step() -> None:
    nonlocal states, done
    states, sums = run(model.params, states, joined[done % len(joined)])
    done += 1
    assert all(np.isfinite(float(each['loss'])) for each in sums)

  contest.serve(step)


if __name__ == '__main__':
  main()
