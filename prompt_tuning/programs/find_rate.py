"""Advises a learning rate: trains a few steps with many rates side by side, and compares the losses.

  prompt-tuning find-rate --model /models/t5-v1_1-small --data reviews.jsonl

All flags of train can be used, with one value each. The rates are constant, so that they are compared at their full
size; a run whose rate falls afterwards can use the advised one as its --learning_rate.
"""

import math
import sys
import tempfile
from collections.abc import Sequence

from prompt_tuning.files import storage, terminal
from prompt_tuning.programs import sweep, sweep_flags
from prompt_tuning.runs.sweep_run import SweepRun
from prompt_tuning.runs.values import parsed

_OWN = {
  '--output': ('FOLDER', 'keeps the runs, the table and the picture there (a new temporary folder)'),
  '--rates': ('RATE …', 'the rates to try (0.001 0.003 0.01 0.03 0.1 0.3 1 3)'),
  '--at_once': ('NUMBER', 'runs whose rows are computed at once (all; on CPUs one after the other)'),
  '--dry_run': ('', 'build everything, print the runs and stop'),
}
_RATES = ('0.001', '0.003', '0.01', '0.03', '0.1', '0.3', '1', '3')
# Defaults that are not those of train.
_DEFAULTS = {'--steps': '50', '--schedule': 'constant', '--compare': 'false', '--evaluation_examples': '0',
             '--loss_steps': '8'}
PICTURE = 'rates.png'


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns its exit status."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if not argv or {'-h', '--help'} & set(argv):
    sweep.show_help('find-rate', __doc__ or '', _OWN)
    return 0 if argv else 2
  return sweep.run_program('find-rate', argv, _OWN, describe, _work)


def describe(flags: sweep_flags.Flags) -> SweepRun:
  """Returns a run for each rate. Raises ValueError if a flag cannot be used."""
  for name, values in flags.items():
    if len(values) > 1 and name != '--rates':
      raise ValueError(f'{name} has {len(values)} values ({" ".join(values)}), but only the rate varies here. Give '
                       'one, or use `prompt-tuning sweep`.')
  for name in ('--learning_rate', '--runs', '--halving'):
    if name in flags:
      raise ValueError(f'{name} cannot be used here. ' + (
        'Give the rates to try as --rates.' if name == '--learning_rate' else 'Leave it out.'))
  rates = flags.get('--rates') or list(_RATES)
  output = flags.get('--output', [''])[0] or tempfile.mkdtemp(prefix='find_rate_')
  own = {name: [value] for name, value in _DEFAULTS.items()}
  own |= {name: values for name, values in flags.items() if name not in _OWN}
  own.setdefault('--evaluation_period', own['--steps'])
  at_once = parsed('at_once', flags['--at_once'][0], int) if '--at_once' in flags else None
  return sweep.runs_of({**own, '--learning_rate': rates}, output, at_once=at_once)


def _work(described: SweepRun, flags: sweep_flags.Flags) -> None:
  """Trains, and prints the losses by rate."""
  from prompt_tuning.evaluation import reports
  from prompt_tuning.runs import sweeping

  built = sweeping.build(described)
  if '--dry_run' in flags:
    terminal.show(built.plan())
    return
  runs = {run.name: run for run in built.run()}
  points = []
  for name, run in described.runs.items():
    found = runs[name]
    lost = 'diverged' in found.ended
    evaluated = next((value for key, value in found.metrics.items() if key.endswith('/loss')), math.nan)
    points.append((run.learning_rate, math.nan if lost or found.loss is None else found.loss,
                   math.nan if lost else evaluated, found.ended))
  terminal.show(f'{"rate":>8}  {"training loss":>13}  {"validation loss":>15}')
  for rate, loss, evaluated, ended in points:
    terminal.show(f'{rate:>8g}  {_shown(loss):>13}  {_shown(evaluated):>15}  {"" if ended == "finished" else ended}')
  judged = [evaluated if not math.isnan(evaluated) else loss for _, loss, evaluated, _ in points]
  usable = [i for i, value in enumerate(judged) if not math.isnan(value)]
  if not usable:
    raise ValueError(f'No rate can be advised: all {len(points)} runs diverged. Try lower ones by --rates.')
  best = min(usable, key=lambda i: judged[i])
  terminal.show(f'Advised: --learning_rate {points[best][0]:g}')
  rates = [rate for rate, *_ in points]
  if len(points) > 1 and points[best][0] in (min(rates), max(rates)):
    terminal.show(f'It is the {"lowest" if points[best][0] == min(rates) else "highest"} that was tried: try others '
                  'by --rates.')
  path = storage.join(described.output, PICTURE)
  try:
    terminal.show(f'Picture: {reports.loss_by_rate(list(zip(rates, judged, strict=True)), path)}')
  except ImportError as error:
    terminal.say(f'No picture: {error}')


def _shown(value: float) -> str:
  return '' if math.isnan(value) else f'{value:.4f}'
