"""Writes a report of one or several runs: one HTML file without outside parts, for any browser.

  prompt-tuning report runs/reviews                                    # writes runs/reviews/report.html
  prompt-tuning report runs/a runs/b runs/c --output comparison.html

RUN is the output folder of `prompt-tuning train`. The report has the settings, curves, metrics by class, examples with
probabilities, the nearest words of each vector, how far it moved, similarities among prompts, attention to the prompt,
and time. The model and the data are those of the run's run.toml; what a folder does not tell is left out, and the
report says why (docs/report.md).
"""

import argparse
import sys
from collections.abc import Sequence

from prompt_tuning.files import terminal
from prompt_tuning.names import require_number, translated
from prompt_tuning.programs import arguments, current_folder
from prompt_tuning.scripts import _script

NAME = 'report.html'


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  flags = arguments.Parser(prog='prompt-tuning report', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument('runs', metavar='RUN', nargs='+', help='the folders of runs')
  flags.add_argument('--output', metavar='FILE.html', help=f'the file; of one run {NAME} in its folder unless given')
  flags.add_argument('--model', metavar='FOLDER', help='a frozen model to use instead of that of run.toml')
  flags.add_argument('--examples', type=int, default=200, metavar='COUNT', help='examples that are predicted (200)')
  current_folder.put_last()
  return _script.run(flags, argv, _write)


def _write(options: argparse.Namespace) -> None:
  require_number('--examples', options.examples, least=1, whole=True)
  if options.output is None and len(options.runs) > 1:
    raise ValueError(f'A report of {len(options.runs)} runs belongs to no folder. Give --output FILE.html.')
  from prompt_tuning.files import storage
  from prompt_tuning.reporting import folder, of_model, page
  from prompt_tuning.runs import objects

  try:
    folders = folder.read(options.runs)
    if options.model and not any(each.settings for each in folders):
      raise ValueError(f'model={options.model} cannot be used: {folders[0].path} has no run.toml, which names the data '
                       'and their form. Leave it out; `prompt-tuning train` and `pt.TrainRun` write that file.')
    path = options.output or storage.join(folders[0].path, NAME)
    objects.check_output(path, is_file=True)
    models: dict[str, object] = {}
    found = [of_model.read(each, model=options.model, examples=options.examples, models=models) for each in folders]
  except (ValueError, OSError, ImportError) as error:
    words = {name: f'--{name}' for name in ('model', 'examples', 'output')}
    raise type(error)(translated(str(error), words)) from error
  storage.write_bytes(path, page.render(folders, found).encode())
  terminal.show(f'Wrote {path}')


if __name__ == '__main__':
  sys.exit(main())
