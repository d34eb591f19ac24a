"""Executes several runs together: builds their objects around one model, trains, and compares what they reached."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.data.metric_values import lower_is_better
from prompt_tuning.evaluation import reports
from prompt_tuning.files import json_files, storage, terminal
from prompt_tuning.runs import objects, training
from prompt_tuning.runs.choice import plain
from prompt_tuning.runs.sweep_run import SweepRun
from prompt_tuning.runs.train_run import TrainRun
from prompt_tuning.training import halving, many, run_files
from prompt_tuning.training.members import require_shared
from prompt_tuning.training.running import MemberRun
from prompt_tuning.training.settings import Saving

TABLE, CURVES = 'table.jsonl', 'curves.png'


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The objects of runs that are trained together.

  Attributes:
    described: the runs' values.
    trainings: the objects of each, by name; all have one model.
  """

  described: SweepRun
  trainings: Mapping[str, training.Training]

  def run(self) -> list[MemberRun]:
    """Trains, or resumes the runs in the folder; writes the table and the picture. Returns the runs, best first."""
    sweep, first = self.described, next(iter(self.trainings.values()))
    if first.described.compare:
      self._compare()
    ended = many.train_many(
      model=first.model, members=[each.member(name) for name, each in self.trainings.items()], model_dir=sweep.output,
      loss=first.loss, microbatches=first.described.microbatches, at_once=sweep.at_once,
      saving=Saving(first.described.saving_period, first.described.keep), log_period=first.described.log_period,
      halving=sweep.halving)
    ordered = best_first(ended)
    lines = [json_files.spelled({
      'name': run.name, 'settings': dict(sweep.varied[run.name]), 'ended': run.ended, 'step': run.step,
      'best': run.best, 'metrics': run.metrics, 'loss': run.loss, 'folder': run.folder}) for run in ordered]
    storage.write_bytes(storage.join(sweep.output, TABLE), ''.join(f'{line}\n' for line in lines).encode())
    try:
      reports.curves({run.name: run.folder for run in ordered}, storage.join(sweep.output, CURVES))
    except ImportError as error:
      terminal.say(f'No picture of the curves: {error}')
    return ordered

  def plan(self) -> str:
    """Returns what would be trained, after checking that it can be."""
    sweep, trainings = self.described, list(self.trainings.values())
    members = [each.member(name) for name, each in self.trainings.items()]
    first = trainings[0]
    require_shared(first.model, members, first.loss, first.described.microbatches)
    lines = [f'{len(members)} runs in {sweep.output}, of {first.model!r}:']
    lines += [f'  {member.name}: {member.train_steps - first.model.step} steps of {member.batch_size} rows of up to '
              f'{member.lengths["inputs"]} and {member.lengths["targets"]} tokens' for member in members]
    if sweep.halving is not None:
      lines.append(halving.planned(len(members), halving.rungs_of(members, sweep.halving, first.model.step),
                                   members[0].train_steps - first.model.step))
    return '\n'.join([*lines, 'This is a plan: nothing was trained.'])

  def _compare(self) -> None:
    """Evaluates the frozen model alone, once for all runs that are evaluated alike."""
    found: dict[str, dict[str, float]] = {}
    for each in self.trainings.values():
      key = f'{_data_of(each.described)} {each.lengths}'
      path = storage.join(each.described.output, run_files.BEFORE)
      if key in found and not storage.exists(path):
        storage.write_bytes(path, json_files.spelled(found[key]).encode())
      found.setdefault(key, each.before())


def build(sweep: SweepRun) -> Sweep:
  """Returns the objects of the runs; reads the model, and each of their data sets, once.

  Raises:
    ValueError, OSError, ImportError: something does not fit or cannot be read; the message says what to change.
  """
  objects.check_output(sweep.output)
  training.say_new_folder(sweep.output)
  made: dict[str, training.Training] = {}
  tasks: dict[str, Any] = {}
  model = None
  for name, run in sweep.runs.items():
    key = _data_of(run)
    try:
      if model is None:
        objects.task(run)  # errors are found before the model is read
        model = training.read_model(run)
      made[name] = training.build(run, model, tasks.get(key))
    except ValueError as error:
      raise ValueError(f'{name}: {error}') from error
    except OSError as error:
      raise OSError(f'{name}: {error}') from error
    tasks[key] = made[name].task
  return Sweep(sweep, made)


def best_first(runs: Sequence[MemberRun]) -> list[MemberRun]:
  """Returns runs by their best objective, or by the training loss if nothing was evaluated."""
  judged = [run.best for run in runs if run.best is not None and run.best['objective'] != 'step']
  if not judged:
    values = [math.nan if run.loss is None or 'diverged' in run.ended else run.loss for run in runs]
    return [runs[i] for i in halving.ranked(values, lower=True)]
  values = [run.best['value'] if run.best else math.nan for run in runs]
  return [runs[i] for i in halving.ranked(values, lower=lower_is_better(judged[0]['objective']))]


def table(runs: Sequence[MemberRun], output: str, command: str) -> str:
  """Returns what the runs reached, best first, and what to type next."""
  names = list(dict.fromkeys(run.best['objective'] for run in runs if run.best and run.best['objective'] != 'step'))
  width, wide = max(len(run.name) for run in runs), max([12, *map(len, names)])
  lines = [f'{"":{width}}' + ''.join(f'  {name:>{wide}}' for name in names) + f'  {"best step":>9}  {"loss":>8}  ended']
  for run in runs:
    values = [f'{run.best["value"]:.4g}' if run.best and run.best['objective'] == name else '' for name in names]
    step = '' if run.best is None else run.best['step']
    loss = '' if run.loss is None else f'{run.loss:.4f}'
    lines.append(f'{run.name:{width}}' + ''.join(f'  {value:>{wide}}' for value in values)
                 + f'  {step:>9}  {loss:>8}  {run.ended}')
  best, curves = runs[0].folder, storage.join(output, CURVES)
  drawn = f', the curves are {curves}' if storage.exists(curves) else ''
  return '\n'.join([*lines, f'The table is {storage.join(output, TABLE)}{drawn}.', 'Next:',
                    f'  {command} eval --prompt {best}', f'  {command} infer --prompt {best} --data FILE '
                    '--output predictions.jsonl'])


def _data_of(run: TrainRun) -> str:
  """Returns a text that is the same for runs which read and evaluate the same data in the same way."""
  return repr([(name, plain(getattr(run, name))) for name, field in run.settings().items()
               if name not in ('seed', 'split', 'packed') and field.metadata['group'] in ('data', 'evaluation')])
