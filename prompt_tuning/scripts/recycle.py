"""Makes a prompt for another model of one that is trained, by a linear map between the embeddings of shared words.

  prompt-tuning recycle --prompt runs/reviews --to /models/qwen --output recycled.safetensors
  prompt-tuning recycle --prompt sst2.npy --from /models/t5-small --to /models/qwen --output recycled.npy --rows 10000

Of both models, only config.json, vocabulary and embedding are read (Lester et al. 2022, v2v-lin). Use the result as it
is, or as a start: `prompt-tuning train --start_from recycled.safetensors`.
"""

import argparse
import sys
from collections.abc import Sequence

from prompt_tuning.names import translated
from prompt_tuning.programs import arguments, current_folder
from prompt_tuning.scripts import _script


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  flags = arguments.Parser(prog='prompt-tuning recycle', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument('--prompt', required=True, metavar='FOLDER', help='the trained prompt: the folder of a run, a '
                                                                       '.npy or .safetensors file, or a PEFT folder')
  flags.add_argument('--from', dest='source', metavar='FOLDER', help='the frozen model that it was trained for; '
                                                                     'default: the one that the run or file names')
  flags.add_argument('--to', required=True, metavar='FOLDER', help='the other frozen model')
  flags.add_argument('--output', required=True, metavar='FILE', help='the .safetensors or .npy file that is written')
  flags.add_argument('--rows', type=int, metavar='COUNT', help='compare so many shared tokens, those of the smallest '
                                                               'ids first (all)')
  current_folder.put_last()
  return _script.run(flags, argv, _recycle)


def _recycle(options: argparse.Namespace) -> None:
  if not options.output.endswith(('.safetensors', '.npy')):
    raise ValueError(f'--output={options.output} cannot be used: expected a file that ends in .safetensors or .npy.')
  from prompt_tuning.evaluation import saved
  from prompt_tuning.evaluation.recycling import recycle
  from prompt_tuning.runs.objects import check_output
  from prompt_tuning.scripts import _base_model

  words = {'model': '--from', 'rows': '--rows', 'output': '--output'}
  try:
    check_output(options.output, is_file=True)
    source = _base_model.read_base_model(options.prompt, options.source)
    trained = saved.load_for(source, options.prompt)
    words['model'] = '--to'
    target = _base_model.read_model(options.to)
    found = recycle(trained, source, target, rows=options.rows)
  except (ValueError, OSError, ImportError) as error:
    raise type(error)(translated(str(error), words)) from error
  found.save(options.output)
  share = found.about['recycled_share']
  print(f'Wrote {options.output}: {len(found.vectors)} vectors of width {found.vectors.shape[1]}, mapped by '
        f'{found.about["recycled_rows"]:,} shared tokens, of whose embeddings the map explains {100 * share:.0f} %.')


if __name__ == '__main__':
  sys.exit(main())
