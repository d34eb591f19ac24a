"""Shows how similar prompts of one model are, as tables and as heat maps.

  prompt-tuning similarities runs/reviews runs/films runs/questions
  prompt-tuning similarities runs/reviews films.npy --picture similarities.png

PROMPT is the folder of a run, a .npy or .safetensors file, or a PEFT folder. The first table has the cosines of the
prompts' mean vectors; the second one, for each vector the cosine to the most similar vector of the other prompt, on
average (1 is the same direction). Prompts of tasks that help one another tend to be similar (Vu et al. 2022).
"""

import argparse
import os
import sys
from collections.abc import Sequence

from prompt_tuning.names import translated
from prompt_tuning.programs import arguments, current_folder
from prompt_tuning.scripts import _script

_TITLES = {'mean': 'cosine of the mean vectors', 'best': 'mean cosine to the most similar vector'}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  flags = arguments.Parser(prog='prompt-tuning similarities', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument('prompts', metavar='PROMPT', nargs='+', help='the trained prompts')
  flags.add_argument('--picture', metavar='FILE.png', help='also draw both tables as heat maps')
  flags.add_argument('--model', metavar='FOLDER', help='the frozen model, which only PEFT folders that do not name '
                                                       'theirs need')
  current_folder.put_last()
  return _script.run(flags, argv, _show)


def _show(options: argparse.Namespace) -> None:
  from prompt_tuning.evaluation.similarities import similarities

  twice = [path for path in options.prompts if options.prompts.count(path) > 1]
  if twice:
    raise ValueError(f'{twice[0]} is given twice. Give each prompt once.')
  found = similarities({path: _read(path, options.model) for path in options.prompts})
  names = _short(options.prompts)
  width = max(map(len, names))
  for name, title in _TITLES.items():
    print(f'{title}\n{"":{width + 4}}' + ''.join(f'{number:>7}' for number in range(1, len(names) + 1)))
    for number, (short, row) in enumerate(zip(names, found[name], strict=True), start=1):
      print(f'{number:>3} {short:{width}}' + ''.join(f'{value:>7.2f}' for value in row))
  if options.picture:
    from prompt_tuning.evaluation import reports

    reports.similarities({title: found[name] for name, title in _TITLES.items()}, names, options.picture)
    print(f'Wrote {options.picture}')


def _short(paths: Sequence[str]) -> list[str]:
  """Returns paths without the folder that they have in common."""
  folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
  return [os.path.relpath(path, os.path.commonpath(folders)) for path in paths]


def _read(path: str, model: str | None) -> object:
  """Returns the trained tensors of a file or folder."""
  from prompt_tuning.checkpoints.peft import CONFIG
  from prompt_tuning.evaluation import saved
  from prompt_tuning.scripts._base_model import read_base_model

  if not os.path.exists(os.path.join(path, CONFIG)):
    return saved.load_trained(path)
  try:
    return saved.load_for(read_base_model(path, model, vocabulary=False), path)
  except (ValueError, OSError) as error:
    raise type(error)(translated(str(error), {'model': '--model'})) from error


if __name__ == '__main__':
  sys.exit(main())
