"""Trains many prompts, or prefixes, in one run around one frozen model.

  prompt-tuning sweep --model /models/t5-v1_1-small --data reviews.jsonl --output runs/rates \
    --learning_rate 0.01 0.1 0.3 --length 5 20 100 --seed 0 1 2 --halving 3
  prompt-tuning sweep --model /models/t5-v1_1-small --output runs/tasks --runs tasks.toml

All flags of train can be used, and may have several values: each combination is a run, in a folder of its own below
--output, like any other run. docs/sweeps.md says more.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from prompt_tuning.files import terminal
from prompt_tuning.names import printable, require_number, translated
from prompt_tuning.programs import arguments, command, ending, gin_flags, sweep_flags
from prompt_tuning.runs import flags as plain
from prompt_tuning.runs.sweep_run import SHARED, SweepRun
from prompt_tuning.runs.values import parsed

_OWN = {
  '--output': ('FOLDER', 'the folder of the sweep, with a folder for each run; a sweep that is there is resumed'),
  '--runs': ('FILE.toml', 'a table for each run, with flags of train, instead of several values'),
  '--halving': ('F', 'at a few steps, of n runs that are left only the best n / F continue, until one is left'),
  '--at_once': ('NUMBER', 'runs whose rows are computed at once (all; on CPUs one after the other)'),
  '--dry_run': ('', 'build everything, print the runs and stop'),
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if not argv or {'-h', '--help'} & set(argv):
    show_help('sweep', __doc__ or '', _OWN)
    return 0 if argv else 2

  def work(described: SweepRun, flags: sweep_flags.Flags) -> None:
    from prompt_tuning.runs import sweeping

    sweep = sweeping.build(described)
    if '--dry_run' in flags:
      terminal.show(sweep.plan())
    else:
      terminal.show(sweeping.table(sweep.run(), described.output, 'prompt-tuning'))

  return run_program('sweep', argv, _OWN, describe, work)


def run_program(program: str, argv: Sequence[str], own: Any,
                described: Callable[[sweep_flags.Flags], SweepRun],
                work: Callable[[SweepRun, sweep_flags.Flags], None]) -> int:
  """Reads flags, makes the runs of them, and does the work; returns the exit status.

  Args:
    program: its name.
    argv: its arguments.
    own: the flags that are not those of train.
    described: makes the runs of all flags.
    work: what is done with them.
  """
  names: list[str] = []  # of the runs, once they are known

  def make() -> tuple[SweepRun, sweep_flags.Flags]:
    flags = read_flags(argv, own)
    found = described(flags)
    names.extend(found.runs)
    return found, flags

  return ending.in_one_process(program, make, lambda both: work(*both), lambda text: in_words(text, own, names))


def read_flags(argv: Sequence[str], own: Any) -> sweep_flags.Flags:
  """Returns the values of each flag. Raises ValueError for those that no sweep can have."""
  arguments.require_utf8(argv)
  for arg in argv:
    if gin_flags.is_gin(arg):
      raise ValueError(f'{arg.partition("=")[0]} cannot be used here: runs that are trained together are described by '
                       'plain flags.')
  flags = sweep_flags.read(argv, alone=[name for name, (metavar, _) in own.items() if metavar and name != '--rates'])
  if flags.get('--dry_run'):
    raise ValueError(f'--dry_run={flags["--dry_run"][0]} cannot be used here. Give --dry_run alone; `prompt-tuning '
                     "train --dry_run compile` estimates a step's memory.")
  for name in ('--coordinator_address', '--process_count', '--process_index', '--multiprocess_gpu', '--shard_id'):
    if name in flags:
      raise ValueError(f'{name} cannot be used here: runs are trained together by one process. Leave it out.')
  return flags


def describe(flags: sweep_flags.Flags) -> SweepRun:
  """Returns the runs of all flags.

  Raises:
    ValueError, OSError, ImportError: a flag cannot be used.
  """
  output = flags.get('--output', [''])[0]
  if not output:
    raise ValueError('--output is missing. Give --output FOLDER, the folder of the sweep.')
  numbers = {name: parsed(name, flags[f'--{name}'][0], int) for name in ('halving', 'at_once') if f'--{name}' in flags}
  for name, least in (('halving', 2), ('at_once', 1)):
    require_number(name, numbers.get(name), least=least, whole=True, none=True)
  shared = {name: values for name, values in flags.items() if name not in _OWN}
  return runs_of(shared, output, path=flags.get('--runs', [None])[0], **numbers)


def runs_of(flags: sweep_flags.Flags, output: str, *, path: str | None = None, **settings: Any) -> SweepRun:
  """Returns the runs of the flags of train, each with some values, or of a file of runs."""
  for name in SHARED:
    flag = f'--{plain.flag(plain.RUNS["train"].settings()[name])}'
    if len(flags.get(flag, ())) > 1:
      raise ValueError(f'{flag} cannot vary in one sweep ({" ".join(flags[flag])}): all runs share it. Start a sweep '
                       'for each value.')
  if len(flags.get('--method', ())) > 1:
    raise ValueError(f'--method cannot vary in one sweep ({" ".join(flags["--method"])}): its runs share one step. '
                     'Start a sweep for each method.')
  made = sweep_flags.product(flags) if path is None else sweep_flags.of_file(path, flags)
  runs = {}
  for name, (own, _) in made.items():
    own = {**own, '--output': [os.path.join(output, name)]}
    try:
      parsed_flags = command.parse_flags('train', sweep_flags.argv_of(own))
    except (ValueError, OSError, ImportError) as error:
      if path is None:
        raise
      raise ValueError(f'{path}: [{name}]: {error}') from error
    runs[name] = parsed_flags.run
    if parsed_flags.tfds_data_dir:
      os.environ['TFDS_DATA_DIR'] = parsed_flags.tfds_data_dir
  return SweepRun(runs=runs, varied={name: varied for name, (_, varied) in made.items()}, output=output, **settings)


def in_words(message: str, own: Any, names: Collection[str] = ()) -> str:
  """Returns a message of the library in the words of a command line; names of runs, which look like them, stay."""
  words = {name.removeprefix('--'): name for name in own} | {'model_dir': '--output'}
  longest_first = sorted(names, key=len, reverse=True)
  parts = re.split(f'({"|".join(map(re.escape, longest_first))})', message) if names else [message]
  parts[::2] = [plain.in_words('train', translated(part, words)) for part in parts[::2]]
  return '\n'.join(map(printable, ''.join(parts).split('\n')))


def show_help(program: str, text: str, own: Any) -> None:
  """Prints what a program does, and its flags."""
  parser = argparse.ArgumentParser(prog=f'prompt-tuning {program}', description=text, add_help=False,
                                   usage=f'prompt-tuning {program} --FLAG VALUE …',
                                   epilog='All flags of train: `prompt-tuning train --help` lists them.',
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  for name, (metavar, said) in own.items():
    parser.add_argument(name, help=said.replace('%', '%%'), **(
      {'metavar': metavar} if metavar else {'action': 'store_true'}))
  parser.print_help()
