"""Shows the tokens whose embeddings are nearest to each vector of a prompt.

  prompt-tuning words runs/reviews                       # the model is that of the run
  prompt-tuning words prompt.npy --model /models/qwen --top 3

PROMPT is the folder of a run, a .npy or .safetensors file, or a PEFT folder. Each line has the vector's index, and the
tokens with their cosine similarity (1 is the same direction), the nearest first; spaces of tokens are shown. Of the
model, only config.json, vocabulary and embedding are read.
"""

import argparse
import sys
from collections.abc import Sequence

from prompt_tuning.names import translated
from prompt_tuning.programs import arguments, current_folder
from prompt_tuning.scripts import _script


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  flags = arguments.Parser(prog='prompt-tuning words', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument('prompt', metavar='PROMPT', help='the trained prompt')
  flags.add_argument('--model', metavar='FOLDER', help='the frozen model; default: the one that the run or file names')
  flags.add_argument('--top', type=int, default=5, metavar='COUNT', help='tokens for each vector (5)')
  current_folder.put_last()
  return _script.run(flags, argv, _show)


def _show(options: argparse.Namespace) -> None:
  from prompt_tuning.evaluation import saved
  from prompt_tuning.evaluation.nearest_words import nearest_words
  from prompt_tuning.scripts import _base_model

  try:
    model = _base_model.read_base_model(options.prompt, options.model)
    rows = nearest_words(model, saved.load_for(model, options.prompt), top=options.top)
  except (ValueError, OSError, ImportError) as error:
    raise type(error)(translated(str(error), {'model': '--model', 'top': '--top'})) from error
  for number, row in enumerate(rows):
    print(f'{number:>{len(str(len(rows) - 1))}}', *(f'{text!r} {similarity:.2f}' for text, similarity in row),
          sep='  ')


if __name__ == '__main__':
  sys.exit(main())
