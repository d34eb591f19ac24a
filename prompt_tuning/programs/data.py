"""Shows the examples of a file before training: rows as the model reads them, lengths, labels, cuts and duplicates.

  prompt-tuning data reviews.jsonl --model /models/t5-v1_1-small
  prompt-tuning data reviews.tsv --model /models/qwen --template 'Review: {text}' --target_template ' {label}' --rows 5
  prompt-tuning data --config runs/reviews/run.toml

FILE is what --data of train takes. All flags of train can be used: those that shape examples (templates, labels,
columns, lengths, the method's length and placement) show what training would see. Of the model, only the configuration
and the tokenizer are read. In a row, [prompt 20] are 20 positions of the prompt, [padding 3] is padding, ▁ is a space,
and tokens in «» are those that the loss counts.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from prompt_tuning.files import terminal
from prompt_tuning.names import printable, require_number
from prompt_tuning.programs import arguments, command, ending
from prompt_tuning.runs import flags as plain

_NONE = 'nothing'  # the output folder of a run that writes nothing


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  own = arguments.Parser(prog='prompt-tuning data', usage='prompt-tuning data FILE --model FOLDER --FLAG VALUE …',
                         description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                         epilog='`prompt-tuning train --help` lists all other flags.')
  own.add_argument('--rows', type=int, default=3, metavar='COUNT', help='examples that are shown as rows (3)')
  own.add_argument('--most', type=int, default=10_000, metavar='COUNT',
                   help='examples of each split that are looked at, from the first (10000)')
  if not argv:
    own.print_help()
    return 2
  words = lambda text: '\n'.join(map(printable, plain.in_words('train', text).split('\n')))

  def make() -> tuple[plain.TrainRun, argparse.Namespace]:
    file = [] if argv[0].startswith('-') else ['--data', argv.pop(0)]
    options, rest = own.parse_known_args(argv)
    for name, least in (('rows', 0), ('most', 1)):
      require_number(f'--{name}', getattr(options, name), least=least, whole=True)
    output = [] if any(each.partition('=')[0] == '--output' for each in rest) else ['--output', _NONE]
    run = command.parse_flags('train', [*file, *rest, *output]).run
    if run is None:
      raise ValueError('Gin files cannot be used here. Give the plain flags of train.')
    return run, options

  found = ending.described('data', make, words)
  if found is None:
    return 2
  run, options = found
  return ending.status_of('data', lambda: show(run, rows=options.rows, most=options.most), words)


def show(run: plain.TrainRun, *, rows: int = 3, most: int = 10_000) -> None:
  """Prints what the examples of a run look like.

  Args:
    run: its values.
    rows: so many examples are shown as rows.
    most: so many examples of each split are looked at.

  Raises:
    ValueError, OSError, ImportError: the examples or the model cannot be read.
  """
  run.executing()
  from prompt_tuning.data.target_checks import check_targets
  from prompt_tuning.data.turn_checks import check_turns
  from prompt_tuning.evaluation import examples
  from prompt_tuning.programs.abstract_models import read_outline
  from prompt_tuning.rows.layouts import Layout
  from prompt_tuning.runs import objects, training

  outline = read_outline(run)
  if outline.missing is not None:
    raise outline.missing
  outline.read_vocabulary(run)
  words, task = outline.vocabulary, objects.task(run)
  if 'init' not in run.method.options and objects.default_first_values(run.method) == 'sampled':  # reads the embedding
    run = dataclasses.replace(run, method=run.method.with_options(init='uniform'), start_from=None)
  layout = outline.layout(training.method_of(run, outline, task).layout())
  lengths, _ = training.lengths(run, outline, task)
  check_turns(task, run.split, layout, lengths)
  for part, _ in task.parts(run.split):
    splits = examples.splits_of(part, most)
    print(f'{part.name}: {", ".join(map(str, splits))}')
    chosen = next((each for each in splits if each.name == run.split), splits[0])
    for line in examples.rows(chosen.examples[:rows], words, layout, lengths) if rows else ():
      print(line)
    counts = examples.token_counts(chosen.examples, words, layout)
    for name, found in counts.items():
      terminal.show('\n'.join(('', *examples.histogram(name, found, lengths.get(name)))))
    for block in (examples.labels(splits, words), examples.duplicates(splits, words)):
      if lines := list(block):
        print('\n'.join(['', *lines]))
  for warning in check_targets(task, run.split, words, outline.layout(Layout()), lengths):
    terminal.show(f'Warning: {warning}')


if __name__ == '__main__':
  sys.exit(main())
