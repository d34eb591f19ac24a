"""Several runs that share a frozen model, as a value."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from prompt_tuning.runs.choice import plain
from prompt_tuning.runs.train_run import TrainRun

# Settings of what all runs share: the frozen model, the machine, the loss, and when files are written.
SHARED = ('model', 'imports', 'dtype', 'activation_dtype', 'attention', 'mesh', 'architecture', 'vocabulary',
          'ignored', 'random_weights', 'new_layers', 'head', 'head_labels', 'problem', 'verbaliser', 'rotary_length',
          'dropout_rate', 'rematerialise', 'loss', 'loss_divisor', 'microbatches', 'saving_period', 'keep',
          'log_period', 'compare')
# Settings that only a run alone can have -> what to do instead.
_ALONE = {'stop_accuracy': 'Members end at their last step, by patience= or by halving=.',
          'profile': 'Profile one of the runs alone.',
          'check_frozen': 'Nothing frozen is an argument of the step; check it with one of the runs alone.',
          'extend': 'Extend the run in a folder of the sweep alone.',
          'tracker': 'Its table and curves compare the runs; track one of them alone.'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepRun:
  """Runs that are trained together.

  Attributes:
    runs: name -> run; each has a folder of its own as `output`.
    varied: name -> what tells the run from the others, by flag.
    output: the folder of the sweep.
    halving: f of successive halving; None trains all to the end.
    at_once: members whose rows are run at once; None chooses by the device.

  Raises:
    ValueError: the runs cannot share a model; the message names a run and a setting.
  """

  runs: Mapping[str, TrainRun]
  varied: Mapping[str, Mapping[str, Any]]
  output: str
  halving: int | None = None
  at_once: int | None = None

  def __post_init__(self) -> None:
    if not self.runs:
      raise ValueError('There are no runs to train. Give at least one.')
    first_name, first = next(iter(self.runs.items()))
    for name, run in self.runs.items():
      for setting, advice in _ALONE.items():
        if getattr(run, setting) != getattr(type(run), setting):
          raise ValueError(f'{setting}={plain(getattr(run, setting))} cannot be used in a sweep. {advice}')
      if run.seed is None:
        raise ValueError(f'seed=none cannot be used in a sweep ({name}): give each run a number.')
      for setting in SHARED:
        found, wanted = (plain(getattr(each, setting)) for each in (run, first))
        if found != wanted:
          raise ValueError(f'{setting}={found} of {name} and {setting}={wanted} of {first_name} cannot be used in one '
                           'sweep: all runs share it. Start a sweep for each.')
      if run.method.name != first.method.name:
        raise ValueError(f'method={run.method.name} of {name} and method={first.method.name} of {first_name} cannot be '
                         'used in one sweep: its runs share one step. Start a sweep for each.')
