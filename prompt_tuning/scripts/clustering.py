"""Tunes a prompt after a text so that a frozen model's next-word logits separate two classes.

  python3 -m prompt_tuning.scripts.clustering --train=train.txt.gz --dev=dev.out [--output=runs/clustering] \\
    [--model=FOLDER] [--data=FILE.tsv]

The files are E2E's (lines meaning||text and id||meaning||text). The class says whether a restaurant is family friendly;
with --data, it is the column `label` of a TSV file with the texts in the column `text`. Keys and values of texts are
computed once and cached, so training runs only the prompt's positions, with a loss over pairs of texts: of angles, or
of distances. Without --model, a small GPT is pretrained on the training pairs; with it, a decoder-only model from a
Hugging Face folder, such as gpt2, is used. Prints how well the classes are separated before and after, plots both along
their principal components, and shows the most likely next words of some texts. Every run is one of the gin files in
prompt_tuning/configs/experiments/clustering.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from prompt_tuning.scripts import _script, table_to_text
from prompt_tuning.scripts._experiment import Experiment

_LOSSES = ('cosine', 'distance')
_SHOWN = 2  # texts of each class


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status."""
  parser = _script.parser('clustering', __doc__)
  parser.add_argument('--train', required=True, help="E2E's file of pairs, plain or .gz")
  parser.add_argument('--dev', required=True, help="E2E's file of references")
  parser.add_argument('--data', help='a TSV file with the columns text and label, instead of E2E\'s texts')
  parser.add_argument('--model', help='the folder of a decoder-only model; without it a small one is pretrained')
  parser.add_argument('--size', help='small, gpt2 or a similar gin file; default: small, or gpt2 with --model')
  parser.add_argument('--output', default='runs/clustering', help='the folder of all runs, results and plots')
  return _script.run(parser, argv, _study)


def _study(options: argparse.Namespace) -> None:
  from prompt_tuning.evaluation import clusters, reports, representations, saved
  from prompt_tuning.runs import training

  experiment = Experiment('clustering', options.size or ('gpt2' if options.model else 'small'), options.output)
  path = options.model or table_to_text.pretrained(Experiment('table_to_text', 'small', options.output), options.train)
  values = {'E2E_TRAIN': options.train, 'E2E_DEV': options.dev, 'INITIAL_CHECKPOINT_PATH': path}
  if options.data:
    values |= {'MIXTURE_OR_TASK_NAME': options.data, 'files.FileTask.inputs': '{text}',
               'files.FileTask.targets': '{label}'}
  found: dict[str, Any] = {}
  for name in _LOSSES:
    described = experiment.described(name, name, **values)
    built = training.build(described)
    model, task, method = built.model, built.task, built.method
    examples = {split: task.split(split) for split in ('train', 'validation')}
    labels = {split: [example['targets'] for example in each] for split, each in examples.items()}
    run = experiment.train(name, name, **values)
    rows = {}
    for when, trained in (('before', _first_values(method, model, described.seed)),
                          ('after', saved.load_trained(run))):
      rows[when] = {split: representations.representations(
        model, trained.conditioning(model), model.layout(trained.layout()), each, batch_size=100,
        lengths={'inputs': described.max_input_length}) for split, each in examples.items()}
      found.setdefault(name, {})[when] = clusters.separation(
        rows[when]['train'], labels['train'], rows[when]['validation'], labels['validation'])
    try:
      print('Picture:', reports.scatter(rows['before']['validation'], rows['after']['validation'],
                                        labels['validation'], experiment.path(f'{name}.png'),
                                        title=f'Next-word logits after the prompt, {name} loss'))
    except ImportError as error:
      print(f'No picture: {error}')
    _show(model, examples['validation'], labels['validation'], rows)
  experiment.write(found, table(found))


def _first_values(method: Any, model: Any, seed: int) -> Any:
  """Returns the initial prompt of a run."""
  import jax

  from prompt_tuning import trees
  from prompt_tuning.evaluation import saved

  return saved.Trained(trees.flatten(method.initialise(jax.random.key(seed), model)), method.describe())


def _show(model: Any, examples: Sequence[Any], labels: Sequence[str], rows: dict[str, Any]) -> None:
  """Prints the most likely next words of some texts of each class, before and after."""
  from prompt_tuning.evaluation import representations

  chosen = [i for name in sorted(set(labels)) for i in [i for i, label in enumerate(labels) if label == name][:_SHOWN]]
  words = {when: representations.top_tokens(model, each['validation'][chosen], 5) for when, each in rows.items()}
  for i, before, after in zip(chosen, words['before'], words['after'], strict=True):
    print(f'  {labels[i]}: {examples[i]["inputs"]}\n    before {before}, after {after}')


def table(found: dict[str, Any]) -> str:
  """Returns the results as Markdown."""
  lines = ['| loss | | nearest mean, % | neighbours, % | linear probe, % | silhouette | explained variance, % |',
           '|---|---|---|---|---|---|---|']
  for name, sides in found.items():
    lines += [f'| {name} | {when} | {figures["class_mean"]:.1f} | {figures["neighbours"]:.1f} | '
              f'{figures["linear_probe"]:.1f} | {figures["silhouette"]:.3f} | {figures["explained_variance"]:.1f} |'
              for when, figures in sides.items()]
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  raise SystemExit(main())
