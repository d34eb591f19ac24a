"""Successive halving (Jamieson and Talwalkar 2016): of runs side by side, the weaker ones end at a few steps.

With factor f, ⌈n / f⌉ of n runs continue after each rung, until one is left; the rungs divide the run into equal parts.
A run that continues is trained as if the others had continued too.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

from prompt_tuning.names import require_number
from prompt_tuning.training.members import Member


def rungs(count: int, factor: int, steps: int) -> dict[int, int]:
  """Returns step of the run -> how many of `count` runs continue after it.

  Raises:
    ValueError: the factor is below 2, or there are too few steps.
  """
  require_number('halving', factor, least=2, whole=True)
  left = []
  while count > 1:
    count = -(-count // factor)
    left.append(count)
  if steps <= len(left):
    raise ValueError(f'halving={factor} cannot be used: it needs {len(left)} evaluations before the last step, but the '
                     f'runs have {steps} steps. Give more steps, or a larger factor.')
  return {max(1, steps * (i + 1) // (len(left) + 1)): each for i, each in enumerate(left)}


def rungs_of(members: Sequence[Member], factor: int, start_step: int) -> dict[int, int]:
  """Returns the rungs of members whose first step is `start_step`.

  Raises:
    ValueError: they cannot be compared, or as in `rungs`.
  """
  facts = [{'steps': member.train_steps, 'evaluated task': (member.evaluations.task or member.task).name,
            'evaluated split': member.evaluations.split, 'objective': member.evaluations.objective}
           for member in members]
  for member, found in zip(members, facts, strict=True):
    if not member.evaluations.anything:
      raise ValueError(f'halving={factor} cannot be used: {member.name} is not evaluated. Give examples or loss_steps '
                       'above 0.')
    for what, value in found.items():
      if value != facts[0][what]:
        raise ValueError(f'halving={factor} cannot be used: it compares all runs by one metric at the same steps, but '
                         f'{what} is {facts[0][what]} for {members[0].name} and {value} for {member.name}. Leave out '
                         'halving=, or give all the same.')
  return rungs(len(members), factor, members[0].train_steps - start_step)


def planned(count: int, found: Mapping[int, int], steps: int) -> str:
  """Returns a line about the rungs of `rungs`: how many runs continue, and the share of all rows that is trained."""
  borders, sizes = [0, *found, steps], [count, *found.values()]
  rows = sum(size * (end - begin) for size, (begin, end) in zip(
    sizes, itertools.pairwise(borders), strict=True))
  after = ', '.join(f'{left} after step {step}' for step, left in found.items())
  return f'Halving: {count} runs, {after}: {rows / (count * steps):.0%} of the rows of all runs.'


def ranked(values: Sequence[float], *, lower: bool) -> list[int]:
  """Returns the indices of values, best first; NaN is the worst, and of equal ones the first is better."""
  sign = 1 if lower else -1
  return sorted(range(len(values)), key=lambda i: (math.isnan(values[i]), sign * values[i], i))
