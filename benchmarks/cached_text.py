"""A training step of a prompt behind texts that are read once, beside the same step on whole rows.

  python benchmarks/cached_text.py

A decoder-only model in the shape of GPT-2, random weights, float32, batch 8, texts of 64 tokens, P = 8, targets 8. The
step behind cached texts includes their way from the host; texts are read before the clock runs, as in all epochs but
the first.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys
import tempfile

import contest
from sizes import SIZES


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--size', choices=[name for name in SIZES if SIZES[name].family == 'gpt2'], default='small_gpt2')
  parser.add_argument('--inputs', type=int, default=64)
  parser.add_argument('--targets', type=int, default=8)
  parser.add_argument('--prompt', type=int, default=8)
  parser.add_argument('--blocks', type=int, default=7, help='turns of each contestant')
  parser.add_argument('--steps', type=int, default=3, help='steps of a turn')
  options = parser.parse_args()
  script = str(pathlib.Path(__file__).parent / 'our_step.py')
  with tempfile.TemporaryDirectory() as cache, contextlib.ExitStack() as stack:
    command = [sys.executable, script, '--cache', cache, '--behind', '--size', options.size,
               *(f'--{name}={getattr(options, name)}' for name in ('inputs', 'targets', 'prompt'))]
    contestants = {name: stack.enter_context(contest.Contestant([*command, *more])) for name, more in (
      ('whole rows', []), ('cached texts', ['--cached']))}
    for contestant in contestants.values():
      contestant.ask('steps 4')  # compiles, and reads the texts of all batches
    times = contest.take_turns(contestants, blocks=options.blocks, steps=options.steps)
    feeding = statistics.median(contestants['cached texts'].ask('feeding') for _ in range(5))
  print('| the step | s/step | time, whole rows = 1 |\n|---|---|---|')
  for name, seconds in times.items():
    print(f'| {name} | {statistics.median(seconds):.3f} | '
          f'{contest.paired_ratio(seconds, times["whole rows"]):.2f} |')
  print(f'\nGathering the texts of a batch takes {feeding:.4f} s of a step.')


if __name__ == '__main__':
  main()
