"""The command line: `prompt-tuning train ...`, which is also `python3 -m prompt_tuning.train ...`.

A command is either plain flags, from which `runs.flags` makes a run, or gin files and overrides, which `launch` reads.
Nothing heavy is imported before the flags are known to be right, so that `--help` answers at once.
"""

import argparse
import importlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import prompt_tuning
from prompt_tuning.files import terminal
from prompt_tuning.names import nearest, printable
from prompt_tuning.programs import arguments, current_folder, ending, gin_flags
from prompt_tuning.runs import flags as plain
from prompt_tuning.runs import run_file

PROGRAMS = {
  'train': 'trains a prompt, or another small set of tensors, for a frozen model',
  'eval': "evaluates a frozen model and a prompt with a task's metrics",
  'infer': 'writes predictions for a file of inputs',
}
# Further subcommands: name -> (what it does, module whose main(argv) runs it).
SUBCOMMANDS: dict[str, tuple[str, str]] = {
  'convert': ('converts trained prompts and prefixes to other files: .npy, .safetensors, PEFT folders, vLLM tensors',
              'prompt_tuning.scripts.convert'),
  'words': ("shows the vocabulary's tokens that are nearest to each vector of a prompt", 'prompt_tuning.scripts.words'),
  'similarities': ('shows how similar prompts are, as tables and heat maps', 'prompt_tuning.scripts.similarities'),
  'report': ('writes a report of one or several runs, as one HTML file', 'prompt_tuning.reporting.command'),
  'recycle': ('makes a prompt for another model of a trained one', 'prompt_tuning.scripts.recycle'),
  'transfer': ('ranks trained prompts as starts for another task', 'prompt_tuning.scripts.transfer'),
  'tasks': ('lists tasks, and shows their examples', 'prompt_tuning.scripts.tasks'),
  'data': ('shows the examples of a file before training: rows, lengths, labels, what is cut, duplicates',
           'prompt_tuning.programs.data'),
  'lm-eval': ('evaluates a frozen model and a prompt with lm-evaluation-harness', 'prompt_tuning.harness.command'),
  'sweep': ('trains many prompts in one run: several values of any flag of train, or named runs of a file',
            'prompt_tuning.programs.sweep'),
  'distill': ('distils a document into keys and values, a cartridge, or into a prompt',
              'prompt_tuning.programs.distill'),
  'find-rate': ('trains a few steps with many learning rates at once, and advises one',
                'prompt_tuning.programs.find_rate'),
  'serve': ('serves a frozen model and its prompts over HTTP', 'prompt_tuning.programs.serve'),
}
VERSION = f'prompt-tuning {prompt_tuning.__version__}'

_EXAMPLES = {
  'train': """\
  prompt-tuning train --model /models/t5-v1_1-small --data reviews.jsonl --output runs/reviews
  prompt-tuning train --model /models/qwen --data reviews.jsonl --output runs/reviews \\
    --template 'Review: {text}\\nSentiment:' --target_template ' {label}' --method prefix --length 10
""",
  'eval': """\
  prompt-tuning eval --prompt runs/reviews
  prompt-tuning eval --prompt runs/reviews --data other_reviews.jsonl --split all
""",
  'infer': """\
  prompt-tuning infer --prompt runs/reviews --data questions.jsonl --output predictions.jsonl
""",
}
# Flags that are not settings of a run.
_SHARED = ('config', 'dry_run', 'tfds_data_dir', 'coordinator_address', 'process_count', 'process_index',
           'multiprocess_gpu', 'seqio_additional_cache_dirs', 'shard_id')


def main(argv: Sequence[str] | None = None) -> int:
  """Runs `prompt-tuning SUBCOMMAND ...`; returns the exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  known = [*PROGRAMS, *SUBCOMMANDS]
  if argv[:1] == ['--version']:
    print(VERSION)
    return 0
  if not argv or argv[0] in ('-h', '--help'):
    print('usage: prompt-tuning SUBCOMMAND ...   (SUBCOMMAND --help says more)\n'
          '       prompt-tuning --version\n')
    for name, summary in [*PROGRAMS.items(), *((name, entry[0]) for name, entry in SUBCOMMANDS.items())]:
      print(f'  {name:10} {summary}')
    return 0 if argv else 2
  name, *rest = argv
  if name in PROGRAMS:
    return run(name, rest)
  if name in SUBCOMMANDS:
    return importlib.import_module(SUBCOMMANDS[name][1]).main(rest) or 0
  print(f'prompt-tuning: there is no subcommand {name!r}.{nearest(name, known)} '
        f'Give one of {", ".join(known)}.', file=sys.stderr)
  return 2


def run(program: str, argv: Sequence[str] | None = None) -> int:
  """Runs one program; returns the exit status: 0, or 2 after a message that says what to change."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if '--version' in argv:
    print(VERSION)
    return 0
  terminal.open_streams()
  try:
    current_folder.put_last()
    flags = parse_flags(program, argv)
  except (ValueError, OSError, ImportError) as error:
    terminal.say(f'prompt-tuning {program}: {_in_words(program, argv, str(error))}')
    return 2
  return ending.status_of(program, lambda: _execute(program, flags), lambda text: _in_words(program, argv, text))


def _execute(program: str, flags: argparse.Namespace) -> None:
  if flags.dry_run:
    from prompt_tuning.programs import dry_run

    dry_run.run(program, flags)
  else:
    from prompt_tuning.programs import launch

    launch.run(program, flags)


def parse_flags(program: str, argv: Sequence[str]) -> argparse.Namespace:
  """Returns the flags of a program; `run` is what plain flags describe, None if gin files do.

  For gin, `gin_bindings` holds `--gin.NAME=VALUE` as NAME=VALUE, in order.

  Raises:
    ValueError: a flag is unknown or cannot be used; the message gives the right form.
    OSError, ImportError: a file or a module that a flag names cannot be read.
  """
  argv = [_underscored(arg) for arg in argv]
  arguments.require_utf8(argv)
  of_gin = [arg for arg in argv if gin_flags.is_gin(arg)]
  if of_gin:
    return _parse_gin(program, argv, of_gin[0])
  _import_modules(argv)
  options, rest = plain.take_options(program, argv)
  parser = _parser(program)
  found, wrong = parser.parse_known_args(rest)
  if wrong:
    raise ValueError(_advise(program, wrong[0]))
  fields = plain.RUNS[program].settings()
  given = {name: value for name, value in vars(found).items() if name in fields or '.' in name}
  if not given and not options and not found.config:
    raise ValueError(f'No flags are given. For example:\n\n{_EXAMPLES[program]}\n'
                     f'`prompt-tuning {program} --help` lists all flags.')
  shared = {name: value for name, value in vars(found).items() if name in _SHARED}
  return argparse.Namespace(**shared, gin_file=[], gin_bindings=[], gin_search_paths=[],
                            run=plain.run_of(program, {**given, **options}, found.config))


def _parse_gin(program: str, argv: Sequence[str], first: str) -> argparse.Namespace:
  parser = arguments.Parser(prog=f'prompt-tuning {program}', add_help=False)
  gin_flags.add(parser)
  _add_shared(parser, program)
  flags, unknown = parser.parse_known_args(gin_flags.join_overrides(argv))
  mixed = [arg for arg in unknown if arg.startswith('--') and _name(arg) in {
    plain.flag(field) for field in plain.RUNS[program].settings().values()} | {'config'}]
  if mixed or getattr(flags, 'config', None):
    both = f'{mixed[0].partition("=")[0] if mixed else "--config"} and {first.split("=")[0]}'
    raise ValueError(f'{both} cannot be used in one command: a run is described by plain flags, or by gin files '
                     'and overrides. Use one of the two.')
  if unknown:
    raise ValueError(gin_flags.advise(unknown[0], parser))
  if flags.shard_id not in (None, '0'):
    raise ValueError(f'--shard_id={flags.shard_id} asks for a part of the predictions, but this version predicts for a '
                     'whole file. Leave it out; several hosts share the work when started as one run (docs/pods.md).')
  if not flags.gin_file:
    raise ValueError(f'No --gin_file is given, so there is nothing to run. Plain flags need none:\n\n'
                     f'{_EXAMPLES[program]}')
  flags.gin_search_paths = [path for path in flags.gin_search_paths.split(',') if path]
  flags.run = None
  return flags


def _parser(program: str) -> argparse.ArgumentParser:
  parser = arguments.Parser(
    lists=plain.lists(program), prog=f'prompt-tuning {program}', formatter_class=_Help,
    usage=f'prompt-tuning {program} --FLAG VALUE …',
    description=f'{PROGRAMS[program].capitalize()}.', epilog=f'examples:\n{_EXAMPLES[program]}')
  parser.add_argument('--config', metavar='RUN.TOML', help=(
    "a run's file, such as the run.toml of an output folder; flags win"))
  plain.add(parser, program)
  _add_shared(parser, program)
  gin = parser.add_argument_group('gin files, instead of all of the above (docs/configuration.md)')
  gin_flags.add(gin)
  return parser


class _Help(argparse.RawDescriptionHelpFormatter):
  def __init__(self, prog: str):
    super().__init__(prog, max_help_position=34, width=120)


def _add_shared(parser: argparse.ArgumentParser, program: str) -> None:
  add = parser.add_argument
  add('--dry_run', nargs='?', const='plan', metavar='compile', help='build everything, print the plan and stop; '
      "'compile' also estimates a step's memory, and a TPU slice such as v5e:4x4 asks the TPU compiler for it")
  add('--tfds_data_dir', metavar='FOLDER', help='where TensorFlow Datasets keeps data, for SeqIO tasks')
  hosts = parser.add_argument_group(
    'several hosts', 'start the same command on each; TPU pods, GKE, Slurm and Open MPI tell JAX the rest')
  hosts.add_argument('--coordinator_address', metavar='HOST:PORT', help='of process 0, if no cluster provides it')
  hosts.add_argument('--process_count', type=int, metavar='N', help='how many processes there are')
  hosts.add_argument('--process_index', type=int, metavar='I', help='which one this is, from 0')
  hosts.add_argument('--multiprocess_gpu', nargs='?', const=True, type=gin_flags.is_true,
                     help='fail if no other process is found')
  hosts.add_argument('--nomultiprocess_gpu', dest='multiprocess_gpu', action='store_false', help=argparse.SUPPRESS)
  others = parser.add_argument_group('accepted for existing scripts')
  if program == 'train':
    others.add_argument('--seqio_additional_cache_dirs', metavar='A,B', help='where SeqIO looks for cached tasks')
  if program == 'infer':
    others.add_argument('--shard_id', metavar='0', help='only 0')
  parser.set_defaults(shard_id=None, seqio_additional_cache_dirs=None)


def _advise(program: str, arg: str) -> str:
  """Returns what to write instead of an unknown argument."""
  if not arg.startswith('-'):
    return f'The argument {arg!r} belongs to no flag. Write --NAME VALUE; a value with spaces needs quotes.'
  name = _name(arg)
  return gin_flags.advise_macro(arg) or plain.unknown(program, name, _SHARED)


def _name(arg: str) -> str:
  return arg.lstrip('-').partition('=')[0]


def _underscored(arg: str) -> str:
  """Returns a flag whose name is written with dashes, such as --batch-size=8, with underscores."""
  if not arg.startswith('--') or gin_flags.is_gin(arg):
    return arg
  name, equals, value = arg[2:].partition('=')
  return f'--{name.replace("-", "_")}{equals}{value}'


def _import_modules(argv: Sequence[str]) -> None:
  """Imports the modules of `--import` and of `--config`'s file: they may register methods, whose settings are flags."""
  first = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
  first.add_argument('--import', dest='imports', default='')
  first.add_argument('--config')
  try:
    found, _ = first.parse_known_args(argv)
  except argparse.ArgumentError:
    return  # a flag without a value, which the second parse reports
  modules = [each for each in found.imports.split(',') if each]
  if found.config and not modules:
    imports = run_file.read(found.config).get('imports', [])
    modules = imports.split(',') if isinstance(imports, str) else imports
  if modules:
    from prompt_tuning.data import registry  # loads JAX

    for module in modules:
      registry.import_module(module)


def _in_words(program: str, argv: Iterable[str], message: str) -> str:
  """Returns a message of the library in the words that the user typed."""
  words: Any = gin_flags.in_words if any(map(gin_flags.is_gin, argv)) else plain.in_words
  return '\n'.join(map(printable, words(program, message).split('\n')))  # files may hold control characters


if __name__ == '__main__':
  sys.exit(main())
