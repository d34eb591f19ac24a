"""Compares tuning methods as their users judge them: accuracy on reviews of films, parameters, bytes, time, memory.

  python benchmarks/methods.py --model SmolLM2 --rows reviews            # hours; goes on where it was stopped
  python benchmarks/methods.py --table                                   # the table of what was measured
  python benchmarks/methods.py --model M --rows R --steps 2 --methods prompt 'PEFT LoRA' --results /tmp/some.jsonl

`--model` is the folder of a decoder-only model that transformers reads too, such as SmolLM2-135M-Instruct, `--rows` a
folder with `train.jsonl` and `test.jsonl`, whose rows have the columns text and label (positive or negative). The last
300 rows of `train.jsonl` are for validation.

Three settings of each method are trained with seed 0; the one with the best accuracy on the validation rows is trained
with two more seeds, and its accuracy on the test rows is in the table. Every measurement is a process and a line of
`--results`, which is kept in the repository; one that is there already is not repeated. Settings are in
`methods_settings.py`.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from methods_settings import METHODS, PEFT

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
_KEY = ('protocol', 'method', 'settings', 'seed')


def main() -> int:
  """Runs the command; returns its exit status."""
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument('--model', help='folder of the frozen model')
  flags.add_argument('--rows', help='folder of train.jsonl and test.jsonl')
  flags.add_argument('--results', default=str(HERE / 'methods.jsonl'), help='the file of measurements')
  flags.add_argument('--methods', nargs='+', default=list(METHODS), choices=METHODS, metavar='METHOD')
  flags.add_argument('--steps', type=int, default=100)
  flags.add_argument('--batch_size', type=int, default=16)
  flags.add_argument('--inputs', type=int, default=64, help='most tokens of an input')
  flags.add_argument('--validation', type=int, default=300, help='rows of train.jsonl that choose among settings')
  flags.add_argument('--test', type=int, default=400, help='rows of test.jsonl that are judged')
  flags.add_argument('--peer_python', default=sys.executable, help='an interpreter that can import peft and torch')
  flags.add_argument('--table', action='store_true', help='only print the table')
  options = flags.parse_args()
  path = pathlib.Path(options.results)
  protocol = {name: getattr(options, name) for name in ('steps', 'batch_size', 'inputs', 'validation', 'test')}
  if options.table:
    print(table(read(path), protocol))
    return 0
  if options.model is None or options.rows is None:
    flags.error('--model and --rows are needed to measure; --table needs neither')
  failed: set[str] = set()
  while (job := next_job(read(path), options.methods, protocol, failed)) is not None:
    print(f'{job["method"]}, seed {job["seed"]}: {job["settings"]}', flush=True)
    found = measure(job, options)
    if found is None:
      failed.add(json.dumps([job[name] for name in _KEY]))
      continue
    with path.open('a') as file:
      file.write(json.dumps({**job, **found, 'date': f'{datetime.date.today()}'}) + '\n')
    print(f'  validation {found["validation"]:.2f} %, test {found["test"]:.2f} %, {found["seconds"]:.0f} s', flush=True)
  print(table(read(path), protocol))
  return int(bool(failed))


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the measurements of a file of results; none if there is no such file."""
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def next_job(results: Sequence[Mapping[str, Any]], methods: Sequence[str], protocol: Mapping[str, int],
             failed: set[str] = frozenset()) -> dict[str, Any] | None:
  """Returns what is to be measured next: every setting with the first seed, then the best one with the others."""
  there = {json.dumps([each[name] for name in _KEY]) for each in results} | failed
  for method in methods:
    settings = METHODS[method][1]
    jobs = [_job(protocol, method, each, SEEDS[0]) for each in settings]
    chosen = best(results, method, protocol)
    if len(settings) > 1 and chosen is not None:
      jobs += [_job(protocol, method, chosen, seed) for seed in SEEDS[1:]]
    for job in jobs:
      if json.dumps([job[name] for name in _KEY]) not in there:
        return job
  return None


def _job(protocol: Mapping[str, int], method: str, settings: str, seed: int) -> dict[str, Any]:
  return {'method': method, 'settings': settings, 'seed': seed, 'protocol': dict(protocol)}


def best(results: Sequence[Mapping[str, Any]], method: str, protocol: Mapping[str, int]) -> str | None:
  """Returns the setting that is best on the validation rows with the first seed, or None."""
  own = [each for each in results if each['method'] == method and each['protocol'] == protocol and
         each['seed'] == SEEDS[0] and each['settings'] in METHODS[method][1]]
  return max(own, key=lambda each: each['validation'])['settings'] if own else None


def measure(job: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any] | None:
  """Returns what a process of its own has measured; None if it failed, which it says itself."""
  program, _ = METHODS[job['method']]
  python = options.peer_python if program == PEFT else sys.executable
  command = [python, str(HERE / program), '--model', options.model, '--rows', options.rows, json.dumps(job)]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
  if done.returncode != 0 or not done.stdout.strip():
    print(f'  failed with status {done.returncode}; its message stands above', flush=True)
    return None
  return json.loads(done.stdout.splitlines()[-1])


def table(results: Sequence[Mapping[str, Any]], protocol: Mapping[str, int]) -> str:
  """Returns the measurements of a protocol as Markdown, one row for each method's best setting."""
  lines = ['| method | accuracy, % (lowest to highest of seeds) | seeds | trained | bytes | processor s | peak MB | '
           'settings |',
           '|---|---|---|---|---|---|---|---|']
  for method in METHODS:
    chosen = best(results, method, protocol)
    own = [each for each in results if each['method'] == method and each['protocol'] == protocol and
           each['settings'] == chosen]
    if own:
      test = [each['test'] for each in own]
      mean = lambda name, own=own: statistics.mean(each[name] for each in own)
      lines.append(f'| {method} | {statistics.mean(test):.2f} ({min(test):.2f} to {max(test):.2f}) | {len(own)} | '
                   f'{own[0]["trained"]:,} | {own[0]["bytes"]:,} | {mean("seconds"):.0f} | '
                   f'{mean("memory") / 1e6:.0f} | `{chosen}` |')
  return '\n'.join(lines)


if __name__ == '__main__':
  sys.exit(main())
