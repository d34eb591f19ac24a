"""Writes a whole model from a frozen model and what a run trained, merged into its weights.

A run may have retrained parameters (all of them if it pretrained), low-rank updates or scales.

  python3 -m prompt_tuning.scripts.export_model --run=MODEL_DIR --output=FOLDER \\
    [--model=CHECKPOINT] [--vocabulary=FOLDER] [--layout=huggingface|t5x]

Without --model, the run must have trained every parameter.
"""

import argparse
import os
from collections.abc import Sequence

from prompt_tuning.scripts import _script


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the script; returns its exit status."""
  parser = _script.parser('export_model', __doc__)
  parser.add_argument('--run', required=True, help='a MODEL_DIR, or its best.safetensors or last.safetensors')
  parser.add_argument('--output', required=True, help='the folder to write')
  parser.add_argument('--model', help='the frozen checkpoint that the run started from')
  parser.add_argument('--vocabulary', help='a folder with tokenizer.json or a SentencePiece model')
  parser.add_argument('--layout', default='huggingface', choices=['huggingface', 't5x'])
  return _script.run(parser, argv, _export)


def _export(options: argparse.Namespace) -> None:
  from prompt_tuning.data.vocabulary_folders import load_vocabulary
  from prompt_tuning.evaluation import cards, saved
  from prompt_tuning.models import loading
  from prompt_tuning.models.parameters import merged

  trained = saved.load_trained(options.run)
  vocabulary = load_vocabulary(options.vocabulary) if options.vocabulary else None
  if options.model:
    model = loading.load_model(options.model, vocabulary=vocabulary)
  else:
    model = loading.model_of_arrays(trained.tensors, options.run, described=trained.about.get('model_config'),
                                    vocabulary=vocabulary)
  params = merged(model.params, trained.conditioning(model))
  loading.save_model(model, options.output, layout=options.layout, params=params)
  name = os.path.basename(os.path.normpath(options.output))
  library = 'transformers' if options.layout == 'huggingface' else 't5x'
  cards.write_or_say(options.output, lambda earlier: cards.card(
    trained.tensors, trained.about, title=name, source=name, base=options.model, library=library, earlier=earlier))
  print(f'Wrote {options.output}')


if __name__ == '__main__':
  raise SystemExit(main())
