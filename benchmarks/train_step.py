"""Compares a training step of prompt tuning with PEFT's: time, share of the matmul rate, peak memory.

  python benchmarks/train_step.py                                  # where the extra `peers` is installed
  python benchmarks/train_step.py --peer_python path/to/python     # PEFT lives in an environment of its own
  python benchmarks/train_step.py --sizes large xl --dtype bfloat16      # on a GPU of 80 GB

T5 1.1 or GPT-2, random weights, batch 8, inputs 128, targets 8 (GPT-2: loss on all text; large and xl: inputs 512,
batch 32 and 16), P = 100, dropout 0. Memory is that of the accelerator where there is one, else of the process.
Each contestant is a process of its own; blocks of steps alternate, so that whatever else the machine does falls on all
alike.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import sys
import tempfile

import contest
from sizes import SIZES

HERE = pathlib.Path(__file__).parent
OURS = {'ours': [],
        'ours, 2 microbatches': ['--microbatches=2'],
        'ours, rematerialised': ['--rematerialise=full'],
        'ours, rematerialised, 2 microbatches': ['--rematerialise=full', '--microbatches=2']}
PEFT = {'PEFT': [],
        'PEFT, rematerialised': ['--rematerialise=full']}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--sizes', nargs='+', choices=SIZES, default=['small', 'base'])
  parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32', help='of weights and activations')
  parser.add_argument('--blocks', type=int, default=7, help='turns of each contestant')
  parser.add_argument('--steps', type=int, default=3, help='steps of a turn')
  parser.add_argument('--peer_python', default=sys.executable, help='an interpreter that can import peft and torch')
  options = parser.parse_args()
  for name in options.sizes:
    with tempfile.TemporaryDirectory() as cache:
      print(compare(name, options.peer_python, cache, options.dtype, blocks=options.blocks, steps=options.steps),
            flush=True)


def compare(name: str, peer_python: str, cache: str, dtype: str, *, blocks: int, steps: int) -> str:
  """Returns the table of one size, in Markdown."""
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # all contestants share a GPU's memory
  ours, peer = [sys.executable, str(HERE / 'our_step.py'), '--cache', cache], [peer_python, str(HERE / 'peft_step.py')]
  of_ours = OURS | ({} if dtype == 'float32' else {'ours, int8 weights': ['--dtype=int8']})
  commands = {title: [*ours, '--size', name, '--dtype', dtype, *more] for title, more in of_ours.items()}
  commands |= {title: [*peer, '--size', name, '--dtype', dtype, *more] for title, more in PEFT.items()}
  first_start = {}
  for title in of_ours:  # compiles, and fills the cache for the second start
    with contest.Contestant(commands[title]) as contestant:
      contestant.ask('steps 2')
      first_start[title] = contestant.ask('memory')
  with contextlib.ExitStack() as stack:
    contestants = {title: stack.enter_context(contest.Contestant(command)) for title, command in commands.items()}
    for contestant in contestants.values():
      contestant.ask('steps 2')
    rates: list[float] = []
    measure_rate = lambda: rates.append(contestants['ours'].ask('matmul_rate'))
    times = contest.take_turns(contestants, blocks=blocks, steps=steps, between=measure_rate)
    memory = {title: contestant.ask('memory') for title, contestant in contestants.items()}
  return table(name, dtype, times, rates, memory, first_start)


def table(name: str, dtype: str, times: dict[str, list[float]], rates: list[float], memory: dict[str, int],
          first_start: dict[str, int]) -> str:
  """Returns what was measured, in Markdown.

  Args:
    name: the size's.
    dtype: of weights and activations.
    times: seconds of a step in each block, for each contestant.
    rates: FLOP/s of matrix products, measured before each block.
    memory: peak resident bytes.
    first_start: the same of a start that had to compile.
  """
  size = SIZES[name]
  needed = size.necessary_flops()
  rate = statistics.median(rates)
  lines = [f'### {"T5 1.1 " if size.family == "t5" else ""}{name}, {dtype}', '',
           f'{needed / 1e9:.0f} GFLOP are necessary for a step; matrix products ran at {rate / 1e9:.0f} GFLOP/s.', '',
           '| | s/step | examples/s | examples/s, PEFT = 1 | share of matmul rate | peak MB | peak, PEFT = 1 '
           '| peak MB, first start |', '|---|---|---|---|---|---|---|---|']
  for title, seconds in times.items():
    typical = statistics.median(seconds)
    share = statistics.median(needed / s / rate for s, rate in zip(seconds, rates, strict=True))
    cold = f'{first_start[title] / 1e6:.0f}' if title in first_start else 'the same'
    lines.append(f'| {title} | {typical:.3f} | {size.batch / typical:.2f} '
                 f'| {contest.paired_ratio(times["PEFT"], seconds):.2f} | {share:.0%} '
                 f'| {memory[title] / 1e6:.0f} | {memory[title] / memory["PEFT"]:.2f} | {cold} |')
  return '\n'.join([*lines, ''])


if __name__ == '__main__':
  main()
