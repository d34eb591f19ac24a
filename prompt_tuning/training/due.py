"""What is due at a step of a run, computed from numbers alone."""

from typing import NamedTuple


class Due(NamedTuple):
  """What follows a step: figures are logged, the run is evaluated, its state is saved."""

  log: bool
  evaluate: bool
  save: bool


def due(passed: int, *, last: bool, preempted: bool, log_period: int, evaluation_period: int,
        saving_period: int) -> Due:
  """Returns what is due.

  Args:
    passed: steps of the run so far, this one included; the steps of the frozen model's checkpoint do not count.
    last: the run ends here.
    preempted: the process got SIGTERM or Ctrl-C, so the state is saved.
    log_period: steps from one line of figures to the next.
    evaluation_period: steps from one evaluation to the next.
    saving_period: steps from one save to the next.
  """
  evaluate = last or passed % evaluation_period == 0
  save = last or preempted or passed % saving_period == 0
  return Due(evaluate or save or passed % log_period == 0, evaluate, save)
