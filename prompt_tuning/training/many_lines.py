"""Lines about many runs at once: the best, the median and the worst."""

import math
import statistics
from collections.abc import Callable, Sequence

from prompt_tuning.devices import memory
from prompt_tuning.training.halving import ranked
from prompt_tuning.training.running import Running


def of_losses(running: Sequence[Running], count: int, rate: float) -> str:
  """Returns a text about the training losses of a step.

  Args:
    running: the members that run, of `count`.
    count: how many there are.
    rate: steps per second.
  """
  return (f'loss {_spread(running, lambda each: each.loss, lower=True)}  {len(running)} of {count} run  '
          f'{rate:.3g} steps/s  {memory.words(memory.peak())}')


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
