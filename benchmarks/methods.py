"""Compares tuning methods as their users judge them: accuracy, parameters, bytes, time, memory.

  python benchmarks/methods.py --model SmolLM2 --rows reviews            # hours; goes on where it was stopped
  python benchmarks/methods.py --integers                                # the T5 that comes with the package; an hour
  python benchmarks/methods.py --table                                   # the table of what was measured
  python benchmarks/methods.py --model M --rows R --steps 2 --methods prompt 'PEFT LoRA' --results /tmp/some.jsonl

`--model` is the folder of a decoder-only model that transformers reads too, such as SmolLM2-135M-Instruct, `--rows` a
folder with `train.jsonl` and `test.jsonl`, whose rows have the columns text and label (positive or negative). The last
300 rows of `train.jsonl` are for validation. With `--integers`, each of seven tasks on lists of integers is learnt
alone, and figures are means over them.

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
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import methods_rows
from methods_settings import INTEGERS, METHODS, PEFT

from prompt_tuning.data.integers import PRETRAINED

HERE = pathlib.Path(__file__).parent
SEEDS = (0, 1, 2)
_REVIEWS = {'steps': 100, 'batch_size': 16, 'inputs': 64, 'validation': 300, 'test': 400}
_INTEGERS = {'steps': 300, 'batch_size': 32, 'validation': 640, 'test': 2560, 'tasks': list(PRETRAINED)}
_SHIPPED = str(HERE.parent / 'prompt_tuning/pretrained_models/t5_integers')
_KEY = ('protocol', 'method', 'settings', 'seed')


def main() -> int:
  """Runs the command; returns its exit status."""
  flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument('--model', help='folder of the frozen model')
  flags.add_argument('--rows', help='folder of train.jsonl and test.jsonl')
  flags.add_argument('--results', default=str(HERE / 'methods.jsonl'), help='the file of measurements')
  flags.add_argument('--integers', action='store_true', help='lists of integers instead of reviews')
  flags.add_argument('--methods', nargs='+', choices={**METHODS, **INTEGERS}, metavar='METHOD')
  flags.add_argument('--steps', type=int, help='100; of integers 300')
  flags.add_argument('--batch_size', type=int, help='16; of integers 32')
  flags.add_argument('--inputs', type=int, default=64, help='most tokens of a review')
  flags.add_argument('--validation', type=int, help='rows that choose among settings: 300, those of integers 640')
  flags.add_argument('--test', type=int, help='rows that are judged: 400, those of integers 2560')
  flags.add_argument('--peer_python', default=sys.executable, help='an interpreter that can import peft and torch')
  flags.add_argument('--table', action='store_true', help='only print the table')
  options = flags.parse_args()
  path = pathlib.Path(options.results)
  methods, usual = (INTEGERS, _INTEGERS) if options.integers else (METHODS, _REVIEWS)
  protocol = {**usual, **{name: getattr(options, name) for name in usual if getattr(options, name, None) is not None}}
  if options.table:
    print(table(read(path), methods, protocol))
    return 0
  if not options.integers and (options.model is None or options.rows is None):
    flags.error('--model and --rows are needed to measure reviews; --table and --integers need neither')
  chosen = options.methods or list(methods)
  if not set(chosen) <= set(methods):
    flags.error(f'--methods: {", ".join(sorted(set(chosen) - set(methods)))} cannot be measured there')
  with tempfile.TemporaryDirectory() as folder:
    if options.integers:
      methods_rows.write_integers(protocol, folder)
      options.model, options.rows = _SHIPPED, folder
    return run(path, {name: methods[name] for name in chosen}, protocol, options)


def run(path: pathlib.Path, methods: Mapping[str, Any], protocol: Mapping[str, Any],
        options: argparse.Namespace) -> int:
  """Measures what is missing, and prints the table; returns 1 if a measurement failed."""
  failed: set[str] = set()
  while (job := next_job(read(path), methods, protocol, failed)) is not None:
    print(f'{job["method"]}, seed {job["seed"]}: {job["settings"]}', flush=True)
    found = measure(job, methods[job['method']][0], options)
    if found is None:
      failed.add(json.dumps([job[name] for name in _KEY]))
      continue
    with path.open('a') as file:
      file.write(json.dumps({**job, **found, 'date': f'{datetime.date.today()}'}) + '\n')
    print(f'  validation {found["validation"]:.2f} %, test {found["test"]:.2f} %, {found["seconds"]:.0f} s', flush=True)
  print(table(read(path), methods, protocol))
  return int(bool(failed))


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the measurements of a file of results; none if there is no such file."""
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def next_job(results: Sequence[Mapping[str, Any]], methods: Mapping[str, Any], protocol: Mapping[str, Any],
             failed: set[str] = frozenset()) -> dict[str, Any] | None:
  """Returns what is to be measured next: every setting with the first seed, then the best one with the others."""
  there = {json.dumps([each[name] for name in _KEY]) for each in results} | failed
  for method, (_, settings) in methods.items():
    jobs = [_job(protocol, method, each, SEEDS[0]) for each in settings]
    chosen = best(results, method, settings, protocol)
    if len(settings) > 1 and chosen is not None:
      jobs += [_job(protocol, method, chosen, seed) for seed in SEEDS[1:]]
    for job in jobs:
      if json.dumps([job[name] for name in _KEY]) not in there:
        return job
  return None


def _job(protocol: Mapping[str, Any], method: str, settings: str, seed: int) -> dict[str, Any]:
  return {'method': method, 'settings': settings, 'seed': seed, 'protocol': dict(protocol)}


def best(results: Sequence[Mapping[str, Any]], method: str, settings: Sequence[str],
         protocol: Mapping[str, Any]) -> str | None:
  """Returns the setting that is best on the validation rows with the first seed, or None."""
  own = [each for each in results if each['method'] == method and each['protocol'] == protocol and
         each['seed'] == SEEDS[0] and each['settings'] in settings]
  return max(own, key=lambda each: each['validation'])['settings'] if own else None


def measure(job: Mapping[str, Any], program: str, options: argparse.Namespace) -> dict[str, Any] | None:
  """Returns what a process of its own has measured; None if it failed, which it says itself."""
  python = options.peer_python if program == PEFT else sys.executable
  command = [python, str(HERE / program), '--model', options.model, '--rows', options.rows, json.dumps(job)]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
  if done.returncode != 0 or not done.stdout.strip():
    print(f'  failed with status {done.returncode}; its message stands above', flush=True)
    return None
  return json.loads(done.stdout.splitlines()[-1])


def table(results: Sequence[Mapping[str, Any]], methods: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
  """Returns the measurements of a protocol as Markdown, one row for each method's best setting."""
  lines = ['| method | accuracy, % (lowest to highest of seeds) | seeds | trained | bytes | processor s | peak MB | '
           'settings |',
           '|---|---|---|---|---|---|---|---|']
  for method, (_, settings) in methods.items():
    chosen = best(results, method, settings, protocol)
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
