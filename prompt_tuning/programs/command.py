"""The command line: `prompt-tuning train ...`, which is also `python3 -m prompt_tuning.train ...`.

Reads the flags and hands them to `launch`. Nothing heavy is imported before the flags are known to be right, so that
`--help` answers at once.
"""

import argparse
import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterable, Sequence

from prompt_tuning.devices import multihost

PROGRAMS = {
  'train': 'tunes a prompt for a frozen model, or retrains parts of it',
  'eval': "judges a frozen model and a prompt by a task's metrics",
  'infer': 'answers a file of inputs',
}
# Further subcommands: name -> (what it does, module whose main(argv) runs it).
SUBCOMMANDS: dict[str, tuple[str, str]] = {
  'convert': ('turns trained prompts and prefixes into other files: .npy, .safetensors, folders of Hugging Face PEFT',
              'prompt_tuning.scripts.convert'),
  'tasks': ('lists tasks, and shows their examples', 'prompt_tuning.scripts.tasks'),
}
TRACEBACK = 'PROMPT_TUNING_TRACEBACK'

_EXAMPLES = {
  'train': """\
  prompt-tuning train \\
    --gin_file=prompt_tuning/configs/models/from_checkpoint_prompt.gin \\
    --gin_file=prompt_tuning/configs/runs/prompt_finetune.gin \\
    --gin.INITIAL_CHECKPOINT_PATH="'/models/t5-v1_1-small'" --gin.MIXTURE_OR_TASK_NAME="'reviews.jsonl'" \\
    --gin.TASK_FEATURE_LENGTHS="{'inputs': 128, 'targets': 8}" --gin.TRAIN_STEPS=1000 --gin.MODEL_DIR="'runs/reviews'"
""",
  'eval': """\
  prompt-tuning eval \\
    --gin_file=prompt_tuning/configs/models/from_checkpoint_prompt.gin \\
    --gin_file=prompt_tuning/configs/runs/prompt_eval.gin \\
    --gin.CHECKPOINT_PATH="'/models/t5-v1_1-small'" --gin.PROMPT_FILE="'runs/reviews'" \\
    --gin.MIXTURE_OR_TASK_NAME="'reviews.jsonl'" --gin.utils.DatasetConfig.split="'validation'" \\
    --gin.EVAL_OUTPUT_DIR="'runs/reviews_eval'"
""",
  'infer': """\
  prompt-tuning infer \\
    --gin_file=prompt_tuning/configs/models/from_checkpoint_prompt.gin \\
    --gin_file=prompt_tuning/configs/runs/prompt_infer.gin \\
    --gin.CHECKPOINT_PATH="'/models/t5-v1_1-small'" --gin.PROMPT_FILE="'runs/reviews'" \\
    --gin.MIXTURE_OR_TASK_NAME="'questions.txt'" --gin.TASK_FEATURE_LENGTHS="{'inputs': 128, 'targets': 8}" \\
    --gin.INFER_OUTPUT_DIR="'runs/reviews_answers'"
""",
}
_TRUE = ('1', 'true', 't', 'yes', 'y')


def main(argv: Sequence[str] | None = None) -> int:
  """Runs `prompt-tuning SUBCOMMAND ...`; returns the exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  known = [*PROGRAMS, *SUBCOMMANDS]
  if not argv or argv[0] in ('-h', '--help'):
    print('usage: prompt-tuning SUBCOMMAND ...   (SUBCOMMAND --help says more)\n')
    for name, summary in [*PROGRAMS.items(), *((name, entry[0]) for name, entry in SUBCOMMANDS.items())]:
      print(f'  {name:10} {summary}')
    return 0 if argv else 2
  name, *rest = argv
  if name in PROGRAMS:
    return run(name, rest)
  if name in SUBCOMMANDS:
    return importlib.import_module(SUBCOMMANDS[name][1]).main(rest) or 0
  print(f'prompt-tuning: there is no subcommand {name!r}.{_nearest(name, known)} '
        f'Give one of {", ".join(known)}.', file=sys.stderr)
  return 2


def run(program: str, argv: Sequence[str] | None = None) -> int:
  """Runs one program; returns the exit status: 0, or 2 after a message that says what to change."""
  try:
    flags = parse_flags(program, sys.argv[1:] if argv is None else argv)
  except ValueError as error:
    print(f'prompt-tuning {program}: {error}', file=sys.stderr)
    return 2
  try:
    return _run(program, flags)
  except Exception:
    if multihost.is_alone():
      raise
    traceback.print_exc()  # now: an orderly end would wait for the others
    return multihost.leave(1)


def _run(program: str, flags: argparse.Namespace) -> int:
  try:
    if os.getcwd() not in sys.path and '' not in sys.path:
      sys.path.insert(0, os.getcwd())  # users' modules, as `python3 -m` finds them
    if flags.dry_run:
      from prompt_tuning.programs import dry_run

      dry_run.run(program, flags)
    else:
      from prompt_tuning.programs import launch

      launch.run(program, flags)
  except (ValueError, OSError, ImportError, FloatingPointError, RuntimeError) as error:
    if multihost.lost(error):
      print(f'\nprompt-tuning {program}: another process of this run has ended or cannot be reached '
            f'({str(error).splitlines()[0]:.200}). What was saved last is kept: the same command on all hosts goes on '
            'from there.', file=sys.stderr)
      return multihost.leave(3)
    if os.environ.get(TRACEBACK) or isinstance(error, RuntimeError):
      raise
    print(f'\nprompt-tuning {program}: {error}\n(Set {TRACEBACK}=1 to see where this was found.)', file=sys.stderr)
    return multihost.leave(2)
  except KeyboardInterrupt:
    print(f'\nprompt-tuning {program}: interrupted. The same command goes on from what was saved.', file=sys.stderr)
    return multihost.leave(130)
  return 0


def parse_flags(program: str, argv: Sequence[str]) -> argparse.Namespace:
  """Returns the flags of a program; `gin_bindings` holds `--gin.NAME=VALUE` as NAME=VALUE, in order.

  Raises:
    ValueError: a flag is unknown or cannot be used; the message gives the right form.
  """
  parser = _parser(program)
  flags, unknown = parser.parse_known_args(_join_overrides(argv))
  if unknown:
    raise ValueError(_advise(unknown[0], parser))
  if flags.shard_id not in (None, '0'):
    raise ValueError(f'--shard_id={flags.shard_id} asks for a part of the answers, but this version answers a file '
                     'whole. Leave it out; several hosts share the work when started as one run (docs/pods.md).')
  if not flags.gin_file:
    raise ValueError(f'No --gin_file is given, so there is nothing to run. For example:\n\n{_EXAMPLES[program]}')
  flags.gin_search_paths = [path for path in flags.gin_search_paths.split(',') if path]
  return flags


def _parser(program: str) -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog=f'prompt-tuning {program}', allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
    description=f'{PROGRAMS[program].capitalize()}. Everything is set by gin files and overrides of their values;\n'
                'docs/configuration.md lists the names.',
    epilog=f'example:\n{_EXAMPLES[program]}')
  add = parser.add_argument
  add('--gin_file', action='append', default=[], metavar='PATH', help='a gin file; repeat it, later files win')
  add('--gin_search_paths', default='', metavar='A,B', help='folders in which gin files are looked for first')
  add('--gin.NAME', dest='_', metavar='VALUE',
      help='override one value, in gin syntax: a text has quotes of its own, as in --gin.MODEL_DIR="\'runs/a\'"')
  add('--gin_bindings', action='append', default=[], metavar='NAME=VALUE', help='the same in another form')
  add('--dry_run', nargs='?', const='plan', metavar='compile', help='build everything, print the plan and stop; '
      "'compile' also estimates a step's memory, and a slice of TPUs such as v5e:4x4 asks their compiler")
  add('--tfds_data_dir', metavar='FOLDER', help='where TensorFlow Datasets keeps data, for SeqIO tasks')
  hosts = parser.add_argument_group(
    'several hosts', 'start the same command on each; TPU pods, GKE, Slurm and Open MPI tell JAX the rest')
  hosts.add_argument('--coordinator_address', metavar='HOST:PORT', help='of process 0, where nothing tells it')
  hosts.add_argument('--process_count', type=int, metavar='N', help='how many processes there are')
  hosts.add_argument('--process_index', type=int, metavar='I', help='which one this is, from 0')
  hosts.add_argument('--multiprocess_gpu', nargs='?', const=True, type=lambda text: text.lower() in _TRUE,
                     help='fail where no other process is found')
  hosts.add_argument('--nomultiprocess_gpu', dest='multiprocess_gpu', action='store_false', help=argparse.SUPPRESS)
  others = parser.add_argument_group('accepted for existing scripts')
  if program == 'train':
    others.add_argument('--seqio_additional_cache_dirs', metavar='A,B', help='where SeqIO looks for cached tasks')
  if program == 'infer':
    others.add_argument('--shard_id', metavar='0', help='0')
  parser.set_defaults(shard_id=None, seqio_additional_cache_dirs=None)
  return parser


def _join_overrides(argv: Sequence[str]) -> list[str]:
  """Returns the arguments with `--gin_bindings=NAME=VALUE` for `--gin.NAME=VALUE` and `--gin.NAME VALUE`."""
  joined, rest = [], list(argv)
  while rest:
    arg = rest.pop(0)
    match = re.fullmatch(r'--?gin\.([^=\s]+)(?:=(.*))?', arg, re.DOTALL)
    if match and match.group(2) is None and rest and not rest[0].startswith('--'):
      joined.append(f'--gin_bindings={match.group(1)}={rest.pop(0)}')
    elif match and match.group(2) is not None:
      joined.append(f'--gin_bindings={match.group(1)}={match.group(2)}')
    else:
      joined.append(arg)
  return joined


def _advise(arg: str, parser: argparse.ArgumentParser) -> str:
  """Returns what to write instead of an unknown argument."""
  name, _, value = arg.lstrip('-').partition('=')
  value = value or 'VALUE'
  if not arg.startswith('-'):
    return f'The argument {arg!r} belongs to no flag. Write --NAME=VALUE without blanks around the equals sign.'
  if name.startswith('gin.'):
    return f'{arg} has no value. Write --{name}=VALUE'
  if re.fullmatch(r'[A-Z][A-Z0-9_]*', name):
    literal = value if re.fullmatch(r'[\d._]+|True|False|None|[\[({\'"].*', value) else f'"\'{value}\'"'
    return f'--{name} is not a flag but a value of the gin files. Write --gin.{name}={literal}'
  if '.' in name:
    return f'--{name} is not a flag. To set a value of the gin files, write --gin.{name}={value}'
  known = [option.lstrip('-') for action in parser._actions for option in action.option_strings]
  return f'There is no flag --{name}.{_nearest(name, known)} `{parser.prog} --help` lists them.'


def _nearest(name: str, known: Iterable[str]) -> str:
  from prompt_tuning import trees  # loads JAX: only when something went wrong

  return trees.nearest(name, known)


if __name__ == '__main__':
  sys.exit(main())
