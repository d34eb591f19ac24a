"""Lines about many runs at once: the best, the median and the worst."""

import math
import statistics
from collections.abc import Callable, Sequence

from prompt_tuning.training.halving import ranked
from prompt_tuning.training.running import Running


def of_losses(running: Sequence[Running], count: int, step: int, last: int, rate: float) -> str:
  """Returns a line about the training losses of a step.

  Args:
    running: the members that run, of `count`.
    count: how many there are.
    step: the step.
    last: the last step.
    rate: steps per second.
  """
  left = (last - step) / max(rate, 1e-9)
  return (f'step {step}/{last}  loss {_spread(running, lambda each: each.loss, lower=True)}  '
          f'{len(running)} of {count} run  {rate:.3g} steps/s  ETA {left:.0f} s')


def of_evaluations(evaluated: Sequence[Running], step: int) -> str:
  """Returns a line about the objectives of a step; members with different objectives are listed by it."""
  groups: dict[str, list[Running]] = {}
  for each in evaluated:
    groups.setdefault(each.objective or '', []).append(each)
  return '; '.join(
    f'step {step}: {name} {_spread(group, lambda each: each.value, lower=name.endswith("/loss"))}'
    for name, group in groups.items())


def _spread(running: Sequence[Running], value: Callable[[Running], float | None], *, lower: bool) -> str:
  found = [(each, value(each)) for each in running]
  found = [(each, number) for each, number in found if number is not None and not math.isnan(number)]
  if not found:
    return 'of none is a number'
  order = ranked([number for _, number in found], lower=lower)
  best, worst = found[order[0]], found[order[-1]]
  if len(found) == 1:
    return f'{best[1]:.4g} ({best[0].member.name})'
  median = statistics.median(number for _, number in found)
  return f'best {best[1]:.4g} ({best[0].member.name}), median {median:.4g}, worst {worst[1]:.4g}'
