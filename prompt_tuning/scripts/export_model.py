"""Writes a whole model out of a frozen one and what a run retrained of it (or pretrained: all of it).

  python3 -m prompt_tuning.scripts.export_model --run=MODEL_DIR --output=FOLDER \\
    [--model=CHECKPOINT] [--vocabulary=FOLDER] [--layout=huggingface|t5x]

Without --model the run must have trained every parameter.
"""

import argparse


def main() -> None:
  """Runs the script from the command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--run', required=True, help='a MODEL_DIR, or its best.safetensors or last.safetensors')
  parser.add_argument('--output', required=True, help='the folder to write')
  parser.add_argument('--model', help='the frozen checkpoint that the run started from')
  parser.add_argument('--vocabulary', help='a folder with tokenizer.json or a SentencePiece model')
  parser.add_argument('--layout', default='huggingface', choices=['huggingface', 't5x'])
  options = parser.parse_args()

  from prompt_tuning import inference
  from prompt_tuning.data.vocabularies import load_vocabulary
  from prompt_tuning.models import loading
  from prompt_tuning.models.parameters import merge

  trained = inference.load_trained(options.run)
  vocabulary = load_vocabulary(options.vocabulary) if options.vocabulary else None
  if options.model:
    model = loading.load_model(options.model, vocabulary=vocabulary)
  else:
    model = loading.model_of_arrays(trained.tensors, options.run, described=trained.about.get('model_config'),
                                    vocabulary=vocabulary)
  params = merge(model.params, trained.conditioning(model).parameters)
  loading.save_model(model, options.output, layout=options.layout, params=params)
  print(f'Wrote {options.output}')


if __name__ == '__main__':
  main()
