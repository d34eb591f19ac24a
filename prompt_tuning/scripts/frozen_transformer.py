"""Frozen pretrained transformers on other kinds of data (Lu, Grover, Abbeel and Mordatch 2021).

  python3 -m prompt_tuning.scripts.frozen_transformer [--model=FOLDER] [--output=runs/frozen_transformer]

New input and output heads, the norms and the position embeddings are trained, on bits and on images; attention and MLP
stay frozen, which is checked bit for bit. The same is done with a frozen network of random weights; the difference is
the benefit of pretraining. Without --model, a small GPT is pretrained first, as in experiments/elicitation; with it, a
decoder-only model from a Hugging Face folder, such as gpt2, is used. Prints a table, and plots the attention of the
first layer. Every run is one of the gin files in prompt_tuning/configs/experiments/frozen_transformer.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from prompt_tuning.scripts import _script
from prompt_tuning.scripts._experiment import Experiment

_TASKS = ('xor', 'memory', 'digits')
_KINDS = ('pretrained', 'random')
_DRAWN = 100  # examples whose attention is averaged in the plot


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status."""
  parser = _script.parser('frozen_transformer', __doc__)
  parser.add_argument('--model', help='the folder of a decoder-only model; without it a small one is pretrained')
  parser.add_argument('--size', help='small, gpt2 or a similar gin file; default: small, or gpt2 with --model')
  parser.add_argument('--tasks', nargs='+', default=_TASKS, choices=_TASKS, metavar='TASK',
                      help=f'some of {", ".join(_TASKS)}')
  parser.add_argument('--output', default='runs/frozen_transformer', help='the folder of all runs and results')
  return _script.run(parser, argv, _study)


def _study(options: argparse.Namespace) -> None:
  from prompt_tuning.evaluation import saved
  from prompt_tuning.runs import training

  experiment = Experiment(
    'frozen_transformer', options.size or ('gpt2' if options.model else 'small'), options.output)
  path = options.model or _pretrained(options.output)
  found: dict[str, Any] = {}
  for task in options.tasks:
    for kind in _KINDS:
      values = {'INITIAL_CHECKPOINT_PATH': path, 'UNTRAINED': kind == 'random'}
      began = time.monotonic()
      run = experiment.train(task, f'{task}_{kind}', **values)
      took = time.monotonic() - began
      described = experiment.described(task, f'{task}_{kind}', **values)
      built, trained = training.build(described), saved.load_trained(run)
      found.setdefault(task, {})[kind] = _judged(built, trained) | {'seconds': took}
      if (task, kind) == ('xor', 'pretrained'):
        _draw(built.task.split('validation'), built.model, trained, experiment.path('attention.png'))
  experiment.write(found, table(found))


def _pretrained(folder: str) -> str:
  from prompt_tuning.models import loading

  elicitation = Experiment('elicitation', 'small', folder)
  return elicitation.pretrain('pretrain', loading.find_model('t5_integers'))


def _judged(built: Any, trained: Any) -> dict[str, float]:
  """Returns the accuracy, in %, on the validation split, the steps of a run and its number of trained parameters."""
  from prompt_tuning.evaluation.evaluate import evaluate_loss

  model = built.model
  found = evaluate_loss(model, trained.conditioning(model), model.layout(trained.layout()), built.task,
                        lengths=built.lengths)
  trained_numbers = sum(array.size for array in trained.tensors.values())
  return {'accuracy': 100 * found['token_accuracy'], 'steps': trained.about['step'], 'trained numbers': trained_numbers}


def _draw(examples: Any, model: Any, trained: Any, path: str) -> None:
  """Plots the attention of the first layer, averaged over heads and examples."""
  from prompt_tuning.evaluation import reports
  from prompt_tuning.models.compiled import attention_weights
  from prompt_tuning.rows import layouts

  layout = model.layout(trained.layout())
  drawn = [examples[i] for i in range(_DRAWN)]
  count, bits = len(drawn[0]['inputs']), len(drawn[0]['targets'])
  batch = layouts.assemble([[layout.example(each['inputs'], each['targets'])] for each in drawn],
                           {layout.target_stack: count})
  weights = attention_weights(model.module, model.params, batch, trained.conditioning(model))
  mean = weights['decoder/layers/self_attention'][:1].mean(axis=(1, 2))[:, None]
  try:
    print('Picture:', reports.attention_grid(
      mean, [f'{string}{i + 1}' for string in 'ab' for i in range(bits)], path, borders=[bits],
      title=f'Exclusive or of a and b: first layer, mean over heads and {_DRAWN} examples', names=('',)))
  except ImportError as error:
    print(f'No picture: {error}')


def table(found: dict[str, Any]) -> str:
  """Returns the results as Markdown."""
  lines = ['| task | frozen pretrained, % | steps | frozen random, % | steps | trainable parameters |',
           '|---|---|---|---|---|---|']
  for task, kinds in found.items():
    cells = [f'{kinds[kind]["accuracy"]:.1f} | {kinds[kind]["steps"]}' for kind in _KINDS]
    lines.append(f'| {task} | {" | ".join(cells)} | {kinds["pretrained"]["trained numbers"]:,} |')
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  raise SystemExit(main())
