"""Lists tasks, and shows their examples as a model sees them.

  prompt-tuning tasks                                    # the tasks of the package
  prompt-tuning tasks 'taskless.*sst2'                   # tasks whose name matches the regular expression
  prompt-tuning tasks --module=my.tasks                  # including tasks added by your module
  prompt-tuning tasks reviews.jsonl --show=3             # three examples of a task, or of a .jsonl or .tsv file
  prompt-tuning tasks glue_rte_v200 --show=3 --split=validation --tfds_data_dir=FOLDER --vocabulary=spiece.model

With --vocabulary, a file or the folder of a model, token ids are shown too.
"""

import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Sequence

from prompt_tuning import trees
from prompt_tuning.programs import arguments, current_folder
from prompt_tuning.scripts import _script

_SHOWN = 12  # token ids per line


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  flags = arguments.Parser(prog='prompt-tuning tasks', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument('pattern', nargs='?', default='', help='a regular expression; with --show the name of a task')
  flags.add_argument('--module', action='append', default=[], help='a module that adds tasks; may be repeated')
  flags.add_argument('--all', action='store_true', help='list variants too: prefixes mt5_ and byt5_, suffix _examples')
  flags.add_argument('--show', type=int, metavar='COUNT', help='show this many examples of one task')
  flags.add_argument('--split', default='train', help='the split of the examples: train (the default), validation, …')
  flags.add_argument('--vocabulary', metavar='PATH', help='a SentencePiece model, tokenizer.json, or model folder')
  flags.add_argument('--lengths', type=_lengths, metavar='INPUTS,TARGETS', help='maximum tokens of each, such as 512,8')
  flags.add_argument('--tfds_data_dir', metavar='FOLDER', help='the data folder of TensorFlow Datasets')
  current_folder.put_last()
  return _script.run(flags, argv, lambda options: (_list if options.show is None else _show)(options))


def _lengths(text: str) -> dict[str, int]:
  inputs, targets = (int(part) for part in text.split(','))
  return {'inputs': inputs, 'targets': targets}


def _list(options: argparse.Namespace) -> None:
  from prompt_tuning.data import integers, registry

  for module in (*options.module, *(registry.modules() if importlib.util.find_spec('seqio') else ())):
    registry.import_module(module)
  names = [*integers.NAMES, integers.MIXTURE]
  if 'seqio' in sys.modules:
    from prompt_tuning.data import seqio_reading

    names += seqio_reading.names()
  else:
    print("(SeqIO is not installed; GLUE and others need `pip install '.[seqio]'`.)", file=sys.stderr)
  plain = lambda name: re.sub(r'^(mt5|byt5)_|_examples$', '', name)
  found = [name for name in names if trees.occurs(options.pattern, name)
           and (options.all or plain(name) == name or plain(name) not in names)]
  print('\n'.join(found) or f'No task name matches {options.pattern!r}; `prompt-tuning tasks` lists all.')


def _show(options: argparse.Namespace) -> None:
  from prompt_tuning.data import pipeline, registry
  from prompt_tuning.data.vocabulary_folders import load_vocabulary
  from prompt_tuning.evaluation.predictions import text_of
  from prompt_tuning.models.loading import find_model
  from prompt_tuning.rows import layouts

  if options.tfds_data_dir:
    os.environ['TFDS_DATA_DIR'] = options.tfds_data_dir
  for module in (*options.module, *filter(None, [registry.module_of(options.pattern)])):
    registry.import_module(module)
  vocabulary = load_vocabulary(find_model(options.vocabulary)) if options.vocabulary else None
  if vocabulary is None and registry.module_of(options.pattern):
    raise ValueError(f'{options.pattern} is a SeqIO task, which needs a vocabulary. Set --vocabulary=PATH to a '
                     'SentencePiece model, tokenizer.json, or the folder of a model.')
  task = registry.get(options.pattern, vocabulary, options.lengths)
  for part, _ in task.parts(options.split):
    examples = part.split(options.split)
    count = 'endless' if hasattr(examples, 'draw') else f'{len(examples):,} examples'
    print(f'{part.name}, {options.split}: {count}')
    read = pipeline.Preprocessor(vocabulary, layouts.Layout(), options.lengths or {}) if vocabulary else None
    for i in range(min(options.show, len(examples))):
      example, features = examples[i], {'inputs': 'encoder', 'targets': layouts.Layout.target_stack}
      laid_out = None if read is None else read(example)
      for feature, stack in features.items():
        ids = example[feature] if laid_out is None else laid_out[stack]['tokens' if stack == 'encoder' else 'targets']
        print(f'  {i} {feature:8} {text_of(example, feature, vocabulary)!r}{_ids(ids)}')


def _ids(ids: Sequence[int] | str) -> str:
  if isinstance(ids, str):
    return ''
  shown = ' '.join(map(str, ids[:_SHOWN])) + (' …' if len(ids) > _SHOWN else '')
  return f'  {len(ids)} tokens: {shown}'


if __name__ == '__main__':
  sys.exit(main())
