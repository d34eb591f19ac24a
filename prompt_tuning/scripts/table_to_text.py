"""Prefix tuning for table-to-text (Li and Liang 2021) on E2E's restaurants.

  python3 -m prompt_tuning.scripts.table_to_text --train=train.txt.gz --dev=dev.out [--output=runs/table_to_text] \\
    [--model=FOLDER] [--size=small|distilgpt2|FILE.gin]

The files have lines meaning||text and id||meaning||text. Without --model, a tokenizer is trained and a small GPT is
pretrained on the unmarked training pairs; with it, a model from a Hugging Face folder, such as distilgpt2, is tuned.
Prints BLEU on the development meanings without a prefix and with it, compared with copying the table and with a human
reference, and writes the predictions as lines id||text. The same command resumes where it stopped. Every run is one of
the gin files in prompt_tuning/configs/experiments/table_to_text.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from prompt_tuning.scripts import _script
from prompt_tuning.scripts._experiment import Experiment


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status."""
  parser = _script.parser('table_to_text', __doc__)
  parser.add_argument('--train', required=True, help='the file of pairs, plain or .gz')
  parser.add_argument('--dev', required=True, help='the file of references')
  parser.add_argument('--model', help='the folder of a decoder-only model to tune instead of the small one')
  parser.add_argument('--size', help='small, distilgpt2 or a similar gin file; default: small, or distilgpt2 with '
                                     '--model')
  parser.add_argument('--output', default='runs/table_to_text', help='the folder of all runs, results and predictions')
  return _script.run(parser, argv, _study)


def _study(options: argparse.Namespace) -> None:
  from prompt_tuning.data import table_to_text

  began = time.monotonic()
  experiment = Experiment(
    'table_to_text', options.size or ('distilgpt2' if options.model else 'small'), options.output)
  model = options.model or pretrained(experiment, options.train)
  first = time.monotonic() - began
  files = {'E2E_TRAIN': options.train, 'E2E_DEV': options.dev}
  run = experiment.train('prefix', 'prefix', INITIAL_CHECKPOINT_PATH=model, **files)
  tuned = time.monotonic() - began - first
  examples = table_to_text.read_references(options.dev)
  anchors = table_to_text.anchors(examples)
  found: dict[str, Any] = {
    'copying the table': anchors['copy'],
    'the model without a prefix': _bleu(examples, experiment.infer(
      'answers', 'answers_without', CHECKPOINT_PATH=model, PROMPT_FILE=run, PROMPT=None, **files)),
    'the model with the prefix': _bleu(examples, experiment.infer(
      'answers', 'answers', CHECKPOINT_PATH=model, PROMPT_FILE=run, **files)),
    'a human reference': anchors['human']}
  text = '\n'.join(['| predictions | sentence BLEU | corpus BLEU |', '|---|---|---|', *(
    f'| {name} | {scores["sentence_bleu"]:.1f} | {scores["corpus_bleu"]:.1f} |' for name, scores in found.items())])
  seconds = {'pretraining': first, 'tuning': tuned, 'all': time.monotonic() - began}
  experiment.write({'bleu': found, 'seconds': seconds}, text + '\n')
  print(', '.join(f'{name} took {value:.0f} s' for name, value in seconds.items()))


def pretrained(experiment: Experiment, pairs: str) -> str:
  """Pretrains a tokenizer and a GPT on a file of pairs, as in `pretrain.gin`; returns the model's folder."""
  from prompt_tuning.scripts import make_tokenizer

  tokenizer = experiment.path('tokenizer')
  given = {'E2E_TRAIN': pairs, 'VOCABULARY_FILE': tokenizer}
  size = experiment.described('pretrain', **given).architecture.options['vocab_size']
  make_tokenizer.main([f'--pairs={pairs}', f'--output_dir={tokenizer}', f'--size={size}'])
  return experiment.pretrain('pretrain', tokenizer, **given)


def _bleu(examples: Sequence[Any], path: str) -> dict[str, float]:
  """Returns the metrics of a file of lines id||text."""
  from prompt_tuning.data import metrics, table_to_text

  with open(path, encoding='utf-8') as file:
    answers = dict(line.rstrip('\n').split('||', 1) for line in file)
  compared = [e['references'] for e in examples], [answers[e['id']] for e in examples]
  return metrics.sentence_bleu(*compared) | table_to_text.corpus_bleu(*compared)


if __name__ == '__main__':
  raise SystemExit(main())
