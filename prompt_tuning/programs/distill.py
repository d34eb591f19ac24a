"""Distils a document, or a long system prompt, into keys and values (a cartridge) or a prompt.

  prompt-tuning distill --model /models/smollm2 --document manual.txt --length 256 --output runs/manual
  prompt-tuning distill --model /models/smollm2 --document system.txt --method prompt --length 8 --output runs/short \\
    --questions questions.jsonl

The model asks itself questions about the document (or answers those of a file), scores its answers with the document
before it, and what is trained learns to predict them as it does. A run that is killed is resumed in any phase by the
same command. docs/cartridges.md says more.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from prompt_tuning.distilling.settings import Study
from prompt_tuning.files import terminal
from prompt_tuning.names import printable, translated
from prompt_tuning.programs import arguments, command, ending, gin_flags, sweep_flags
from prompt_tuning.runs import flags as plain
from prompt_tuning.runs.distill_run import DistillRun
from prompt_tuning.runs.method_settings import described as help_of
from prompt_tuning.runs.values import parsed

_OWN = {'document': 'a file of text', 'questions': 'a file with the columns question and, optionally, answer; else the '
        'model asks', 'first': 'first starts from the document\'s first tokens (default), sampled from others'}
_STUDY = {field.name: field for field in dataclasses.fields(Study)}
_NOT = {'data': 'the teacher file in the output is read', 'loss': 'it is distillation',
        'dry_run': 'a document must be studied first', 'config': 'a run is resumed by the same command'}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if not argv or {'-h', '--help'} & set(argv):
    show_help()
    return 0 if argv else 2

  def work(described: DistillRun) -> None:
    described.train.executing()  # imports the modules that it names
    from prompt_tuning.runs import distilling

    terminal.show(distilling.run(described))
    output = described.train.output
    terminal.show(f'Figures: {os.path.join(output, "comparison.json")}\nNext:\n'
                  f'  prompt-tuning infer --prompt {output} --data FILE --output predictions.jsonl\n'
                  f'  prompt-tuning serve --model {described.train.model} --prompts {output}')

  return ending.in_one_process('distill', lambda: describe(argv), work, in_words)


def describe(argv: Sequence[str]) -> DistillRun:
  """Returns the run that flags describe. Raises ValueError, OSError or ImportError: a flag cannot be used."""
  arguments.require_utf8(argv)
  for arg in argv:
    if gin_flags.is_gin(arg):
      raise ValueError(f'{arg.partition("=")[0]} cannot be used here: a document is distilled by plain flags.')
  given = sweep_flags.read(argv, alone=[f'--{name}' for name in (*_OWN, *_STUDY, 'output', 'method', 'length')])
  several = next((name for name, values in given.items() if len(values) > 1), None)
  if several is not None:
    raise ValueError(f'{several} has {len(given[several])} values ({" ".join(given[several])}). Give one; a value with '
                     'blanks needs quotes.')
  for name, why in _NOT.items():
    if f'--{name}' in given:
      raise ValueError(f'--{name} cannot be used here: {why}. Leave it out.')
  take = lambda name: given.pop(f'--{name}', [None])[0]
  document, output = take('document'), given.get('--output', [''])[0]
  for name, value, what in (('document', document, 'FILE, the text to distil'),
                            ('output', output, 'FOLDER, the folder of the run')):
    if not value:
      raise ValueError(f'--{name} is missing. Give --{name} {what}.')
  own = {'questions': take('questions'), 'first': take('first') or 'first'}
  study = {name: parsed(name, value.replace('\\n', '\n'), field.type) for name, field in _STUDY.items()
           if (value := take(name)) is not None}
  return DistillRun(document=document, study=Study(**study), train=_train(given, output), **own)


def _train(given: sweep_flags.Flags, output: str) -> Any:
  """Returns the training that the other flags describe."""
  method = given.setdefault('--method', ['prefix'])[0]
  if method == 'prefix':
    given.setdefault('--length', ['256'])
    given.setdefault('--frozen', ['1' if given['--length'][0] != '1' else '0'])
  defaults = DistillRun.defaults()
  if '--total_steps' in given:
    del defaults['steps']
  for name, value in defaults.items():
    given.setdefault(f'--{name}', [str(value).lower()])
  given['--data'] = [os.path.join(output, 'scores.teacher')]
  return command.parse_flags('train', sweep_flags.argv_of(given)).run


def in_words(message: str) -> str:
  """Returns a message of the library in the words of a command line."""
  words = {name: f'--{name}' for name in (*_OWN, *_STUDY)} | {'model_dir': '--output'}
  return '\n'.join(map(printable, plain.in_words('train', translated(message, words)).split('\n')))


def show_help() -> None:
  """Prints what the program does, and its flags."""
  parser = argparse.ArgumentParser(
    prog='prompt-tuning distill', description=__doc__, add_help=False, usage='prompt-tuning distill --FLAG VALUE …',
    epilog='Flags of train can be used too: --model, --output, --method, --length, --frozen, --steps, --batch_size, '
           '--learning_rate and others; `prompt-tuning train --help` lists them.',
    formatter_class=argparse.RawDescriptionHelpFormatter)
  helps = help_of(Study.__doc__ or '')
  for name, text in [*_OWN.items(), *((name, helps[name]) for name in _STUDY)]:
    shown = f' ({_STUDY[name].default})' if name in _STUDY and _STUDY[name].default is not None else ''
    parser.add_argument(f'--{name}', metavar=name.upper(), help=f'{text}{shown}'.replace('%', '%%'))
  parser.print_help()
