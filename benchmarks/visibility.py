"""A training step whose prompt does not see the input, beside one whose prompt does: T5 1.1 small, inputs 64, P = 100.

  python benchmarks/visibility.py

Random weights, float32, batch 8, targets 8. A prompt that sees nothing of the input is run once for all rows.
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
  parser.add_argument('--size', choices=SIZES, default='small')
  parser.add_argument('--inputs', type=int, default=64)
  parser.add_argument('--blocks', type=int, default=7, help='turns of each contestant')
  options = parser.parse_args()
  script = str(pathlib.Path(__file__).parent / 'our_step.py')
  with tempfile.TemporaryDirectory() as cache, contextlib.ExitStack() as stack:
    command = [sys.executable, script, '--cache', cache, '--size', options.size, '--inputs', str(options.inputs)]
    contestants = {name: stack.enter_context(contest.Contestant([*command, *more])) for name, more in (
      ('sees the input', []), ('does not', ['--alone']))}
    for contestant in contestants.values():
      contestant.ask('steps 2')  # compiles
    times = contest.take_turns(contestants, blocks=options.blocks, steps=3)
  print('| the prompt | s/step | examples/s, sees the input = 1 |\n|---|---|---|')
  for name, seconds in times.items():
    print(f'| {name} | {statistics.median(seconds):.3f} | '
          f'{contest.paired_ratio(times["sees the input"], seconds):.2f} |')


if __name__ == '__main__':
  main()
