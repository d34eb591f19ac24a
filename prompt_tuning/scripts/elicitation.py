"""Shows that prefixes elicit pretrained tasks but teach no new ones (Petrov, Torr and Bibi 2023).

  python3 -m prompt_tuning.scripts.elicitation [--size=small|full|FILE.gin] [--output=runs/elicitation]

A GPT is pretrained on seven unmarked integer tasks. Then a prefix is tuned for each task, and every prefix is evaluated
on every task. On tasks that were not pretrained, a prefix is compared with low-rank updates and with full tuning.
Prints a table; writes it with all results and the plots. The same command resumes where it stopped. Every run is one of
the gin files in prompt_tuning/configs/experiments/elicitation.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

from prompt_tuning.scripts import _script
from prompt_tuning.scripts._experiment import Experiment

_NEW = ('DoubleHistogram', 'MoreThanEqual', 'SortAscending+Add1')
_ALL_NEW = ('MoreThanEqual', 'NotDivisible', 'DoubleHistogram', 'FilterAtLeastNTimes', 'SortAscending+Add1',
            'Add1+LessThan', 'LessThan+Add1', 'LessThan+SortAscending', 'Divisible+Add1')
_METHODS = ('prefix', 'low_rank', 'full_tuning')
_PLAIN = 'InverseBinary'  # the only task whose lists have zeros
_SHOWN = 'LessThan'  # the task whose attention is plotted


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status."""
  parser = _script.parser('elicitation', __doc__)
  parser.add_argument('--size', default='small', help='small (minutes on two CPU cores), full, or a gin file')
  parser.add_argument('--output', default='runs/elicitation', help='the folder of all runs, results and plots')
  parser.add_argument('--new', nargs='+', default=list(_NEW), metavar='TASK',
                      help=f'tasks that were not pretrained, or all: {", ".join(_ALL_NEW)}')
  return _script.run(parser, argv, _study)


def _study(options: argparse.Namespace) -> None:
  from prompt_tuning.data import integers
  from prompt_tuning.evaluation import reports

  began, study = time.monotonic(), Study(options.size, options.output)
  tasks = list(integers.PRETRAINED)
  new = list(_ALL_NEW) if options.new == ['all'] else options.new
  without = {task: study.accuracy(task) for task in tasks}
  runs = {task: study.tune('prefix', task) for task in tasks}
  matrix = {prefix: {task: study.accuracy(task, 'prefix', runs[prefix]) for task in tasks} for prefix in tasks}
  overlap = {prefix: {task: study.overlap(prefix, task) for task in tasks} for prefix in tasks}
  learnt = {task: {method: study.accuracy(task, method, study.tune(method, task)) for method in _METHODS}
            for task in new}
  found = {'seconds': time.monotonic() - began, 'without a prefix': without, 'prefix on task': matrix,
           'same answers': overlap, 'new tasks': learnt}
  study.experiment.write(found, table(found))
  print(f'Everything took {time.monotonic() - began:.0f} s.')
  try:
    pictures = [reports.matrix([list(row.values()) for row in matrix.values()], tasks, tasks,
                               study.experiment.path('matrix.png'), axes=('prefix tuned for', 'evaluated on'),
                               title='Accuracy (%) of every prefix on every task')]
    pictures += study.draw_attention(_SHOWN, runs[_SHOWN])
    print('Pictures:', ', '.join(pictures))
  except ImportError as error:
    print(f'No pictures: {error}')


class Study:
  """The pretrained model of one size, and the runs for it.

  Args:
    size: 'small', 'full' or a gin file.
    folder: the folder of the runs.
  """

  def __init__(self, size: str, folder: str):
    from prompt_tuning.models import loading

    self.experiment = Experiment('elicitation', size, folder)
    self._path = self.experiment.pretrain('pretrain', loading.find_model('t5_integers'))
    self._model = loading.load_model(self._path)

  def tune(self, method: str, task: str) -> str:
    """Trains with one method for one task; returns the run's folder."""
    return self.experiment.train(method, f'{method}_{task}', TASK=task, INITIAL_CHECKPOINT_PATH=self._path)

  def accuracy(self, task: str, method: str = 'full_tuning', run: str | None = None) -> float:
    """Returns the accuracy on validation lists, in %, with the trained tensors of a run, or without any."""
    from prompt_tuning.evaluation import saved
    from prompt_tuning.evaluation.evaluate import evaluate
    from prompt_tuning.runs import objects

    described = self._described(method, task)
    trained = saved.Trained({}) if run is None else saved.load_trained(run)
    return evaluate(self._model, trained.conditioning(self._model), self._model.layout(trained.layout()),
                    objects.task(described), sampler=objects.sampler(described),
                    lengths=objects.lengths_given(described),
                    batch_size=800).metrics['accuracy']

  def overlap(self, first: str, second: str) -> float | None:
    """Returns the percentage of the second task's lists on which both tasks have the same output.

    None if the first task is undefined on them.
    """
    from prompt_tuning.data import integers
    from prompt_tuning.runs import objects

    draws = objects.task(self._described('prefix', second)).split('train')
    if first in ('Modulo', 'Divisible') and second == 'InverseBinary':
      return None  # lists that begin with 0 have no remainder
    return integers.overlap(first, second, length=draws.length, largest=draws.largest)

  def draw_attention(self, task: str, run: str) -> list[str]:
    """Plots the attention of one example's positions, with the prefix and renormalised without it."""
    from prompt_tuning.evaluation import reports, saved
    from prompt_tuning.models.compiled import attention_weights
    from prompt_tuning.rows import layouts
    from prompt_tuning.runs import objects

    model, trained = self._model, saved.load_trained(run)
    split = objects.task(self._described('prefix', task)).split('validation')
    example = max((split[i] for i in range(100)), key=lambda each: len({*each['targets'].split()}))  # not all alike
    layout = model.layout(trained.layout())
    ids = [model.vocabulary.encode(example[part]) for part in ('inputs', 'targets')]
    batch = layouts.assemble([[layout.example(*ids)]], layout.row_lengths(
      {'inputs': len(ids[0]), 'targets': len(ids[1])}))
    conditioning = trained.conditioning(model)
    weights = attention_weights(model.module, model.params, batch, conditioning)['decoder/layers/self_attention'][:, 0]
    common = {'front': weights.shape[3] - weights.shape[2], 'borders': [len(ids[0])],
              'tokens': f'{example["inputs"]} {example["targets"]}'.split()[:weights.shape[2]]}
    return [reports.attention_grid(weights, path=self.experiment.path(f'{name}.png'), rescaled=rescaled, **common,
                                   title=f'{task}: input and output{what}')
            for name, rescaled, what in (('attention', False, ' after the prefix'),
                                         ('attention_rescaled', True, ', renormalised without the prefix'))]

  def _described(self, file: str, task: str) -> Any:
    return self.experiment.described(file, TASK=task, INITIAL_CHECKPOINT_PATH=self._path)


def table(found: dict[str, Any]) -> str:
  """Returns the results as Markdown."""
  matrix, overlap, without = (found[name] for name in ('prefix on task', 'same answers', 'without a prefix'))
  lines = ['| task | without a prefix, % | with its prefix, % | with another prefix, % | and its overlap, % |',
           '|---|---|---|---|---|']
  above = lambda prefix, task: matrix[prefix][task] - (overlap[prefix][task] or 0)
  for task in matrix:
    row = f'| {task} | {without[task]:.1f} | {matrix[task][task]:.1f} |'
    other = max((prefix for prefix in matrix if prefix != task), key=lambda prefix: above(prefix, task))
    lines.append(f'{row} |  |' if task == _PLAIN else
                 f'{row} {matrix[other][task]:.1f} ({other}) | {overlap[other][task]:.1f} |')
  mean = sum(without.values()) / len(without)
  lines += [f'| mixture | {mean:.1f} | | | |', '',
            "Another prefix: the one with the largest margin over the overlap, the share of the task's lists on which",
            f'both tasks have the same output. {_PLAIN} is left out: its lists identify the task.', '',
            '| new task | prefix, % | low rank, % | full tuning, % |', '|---|---|---|---|']
  lines += [f'| {task} | {" | ".join(f"{row[method]:.1f}" for method in _METHODS)} |'
            for task, row in found['new tasks'].items()]
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  raise SystemExit(main())
