"""Tasks on short lists of integers, which a small model learns in minutes (Petrov, Torr and Bibi 2023).

Each maps a list x of length L with entries 1..D to a list y of the same length; r = x[0] is the operand:

  SortAscending, SortDescending  the sorted list
  Add1                           x_i + 1
  InverseBinary                  (x_i + 1) mod 2, with entries 0..1
  Modulo                         x_i mod r
  LessThan, MoreThanEqual        x_i where x_i < r (where x_i >= r), else 0
  Divisible, NotDivisible        x_i where r divides x_i (where it does not), else 0
  DoubleHistogram                how often x_i occurs in x
  FilterAtLeastNTimes            x_i where it occurs at least r times, else 0
  A+B                            B(A(x)), from left to right

r is one of 2..D/2 for Modulo, Divisible, NotDivisible and FilterAtLeastNTimes; entries of `A+B` are 1..D.
Inputs and targets are texts such as "3 1 2 6 5 4". They do not identify the task.

Training lists are endless: example i depends on the seed and on i only. Half of the draws with more than L/2 distinct
values are discarded. A quarter of all lists, chosen by a hash of their entries, never occurs in training; the
validation split is drawn from that quarter.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from prompt_tuning.data import metrics
from prompt_tuning.data.tasks import Example, First, Mixture, Task
from prompt_tuning.names import nearest

LENGTH = 6
LARGEST = 6
VALIDATION_EXAMPLES = 3200
MIXTURE = 'IntegerMixture'
PRETRAINED = ('SortAscending', 'SortDescending', 'Add1', 'Modulo', 'LessThan', 'Divisible', 'InverseBinary')
_BLOCK = 4096  # lists per draw
_ENDLESS = 2**40
_VALIDATION_SEED = 2**32  # no training seed is this large

Lists = np.ndarray  # [n, L]


def _operand(x: Lists) -> Lists:
  return x[:, :1]


def _divisor(x: Lists) -> Lists:
  if not x[:, 0].all():
    raise ValueError('A list starts with 0 and cannot be divided by its first entry. '
                     'Compose tasks so that Modulo, Divisible and NotDivisible never get such a list.')
  return x[:, :1]


def _occurrences(x: Lists) -> Lists:
  return (x[:, :, None] == x[:, None, :]).sum(-1)  # [n, L, L] -> [n, L]


_FUNCTIONS: dict[str, Callable[[Lists], Lists]] = {
  'SortAscending': lambda x: np.sort(x, axis=1),
  'SortDescending': lambda x: -np.sort(-x, axis=1),
  'Add1': lambda x: x + 1,
  'InverseBinary': lambda x: (x + 1) % 2,
  'Modulo': lambda x: x % _divisor(x),
  'LessThan': lambda x: np.where(x < _operand(x), x, 0),
  'MoreThanEqual': lambda x: np.where(x >= _operand(x), x, 0),
  'Divisible': lambda x: np.where(x % _divisor(x) == 0, x, 0),
  'NotDivisible': lambda x: np.where(x % _divisor(x) != 0, x, 0),
  'DoubleHistogram': _occurrences,
  'FilterAtLeastNTimes': lambda x: np.where(_occurrences(x) >= _operand(x), x, 0),
}
NAMES = tuple(_FUNCTIONS)
_SMALL_OPERAND = ('Modulo', 'Divisible', 'NotDivisible', 'FilterAtLeastNTimes')


def apply(name: str, x: Lists) -> Lists:
  """Returns the lists y `[n, L]` to which the task `name`, simple or composed with '+', maps `x`.

  Raises:
    ValueError: the task does not exist.
  """
  for part in _parts(name):
    x = _FUNCTIONS[part](x)
  return x


def task(name: str, *, length: int = LENGTH, largest: int = LARGEST, zeros: int = 0, ends: bool = True) -> Task:
  """Returns an integer task: an endless 'train' split and a 'validation' split of 3200 lists.

  Args:
    name: one of `NAMES`, or several joined with '+'.
    length: L.
    largest: D.
    zeros: the number of zeros before the input: placeholders that a prompt can replace.
    ends: targets have an end token; without it, predictions end when the target length is reached.
  """
  train = Draws(name, length=length, largest=largest, zeros=zeros, ends=ends)
  apply(name, train.block(0))  # a composition that cannot be computed fails here
  validation = First(train.validation(), VALIDATION_EXAMPLES)  # the same for every run
  return Task(name, {'train': train, 'validation': validation}, metrics=(metrics.accuracy,))


def mixture(**shape: Any) -> Mixture:
  """Returns the equal mixture of tasks that the shipped model was pretrained on; `shape` holds arguments of `task`."""
  return Mixture(MIXTURE, tuple(task(name, **shape) for name in PRETRAINED))


def overlap(first: str, second: str, *, length: int = LENGTH, largest: int = LARGEST) -> float:
  """Returns the percentage of the second task's validation lists on which both tasks have the same output.

  InverseBinary has lists of 0 and 1 only, where (x_i + 1) mod 2 equals "x_i is 0". On other lists, either of the two
  counts as its output.
  """
  x = Draws(second, length, largest).validation().block(0)
  x = x[:VALIDATION_EXAMPLES]
  answers = [apply(first, x), x == 0] if first == 'InverseBinary' else [apply(first, x)]
  return 100.0 * float(np.any([(y == apply(second, x)).all(axis=1) for y in answers], axis=0).mean())


@dataclasses.dataclass(frozen=True)
class Draws:
  """An endless sequence of examples of one task.

  Attributes:
    name: the task's name.
    length: L.
    largest: D.
    seed: determines the examples; `draw` returns the sequence for another seed.
    held_out: draw from the quarter of all lists that never occurs in training.
    zeros: see `task`.
    ends: see `task`.
  """

  name: str
  length: int = LENGTH
  largest: int = LARGEST
  seed: int = 0
  held_out: bool = False
  zeros: int = 0
  ends: bool = True

  def __post_init__(self):
    _parts(self.name)
    if self.length < 2 or self.largest < 4:
      raise ValueError(f'{self.name} got length={self.length} and largest={self.largest}. '
                       'Use a length of at least 2 and a largest entry of at least 4.')

  def draw(self, seed: int) -> 'Draws':
    """Returns the sequence for another seed."""
    return dataclasses.replace(self, seed=seed)

  def validation(self) -> 'Draws':
    """Returns the sequence of lists that never occur in training."""
    return dataclasses.replace(self, seed=_VALIDATION_SEED, held_out=True)

  def __len__(self) -> int:
    return _ENDLESS

  def __getitem__(self, index: int) -> Example:
    texts = _texts(self, index // _BLOCK)
    inputs, targets = texts[index % _BLOCK]
    return {'inputs': '0 ' * self.zeros + inputs, 'targets': targets, **({} if self.ends else {'targets_ends': False})}

  def block(self, number: int) -> Lists:
    """Returns the lists of the sequence from number·4096 on, `[4096, L]`."""
    # The counter-based generator gives every block an independent stream without drawing the earlier ones.
    # The name is part of the key, so that the tasks of a mixture see different lists.
    key = zlib.crc32(self.name.encode()) << 64 | self.seed
    random = np.random.Philox(key=key, counter=[0, 0, 0, number])
    return np.concatenate(list(self._accepted(random)))[:_BLOCK]

  def _accepted(self, random: np.random.Philox) -> Iterator[Lists]:
    count = 0
    while count < _BLOCK:
      x = self._candidates(random)
      in_order = np.sort(x, axis=1)
      different = 1 + (in_order[:, 1:] != in_order[:, :-1]).sum(1)
      thrown_away = (different > self.length / 2) & (_draw(random, 0, 1, len(x)) == 0)
      accepted = x[~thrown_away & (is_held_out(x) == self.held_out)]
      if len(accepted) == 0:
        raise ValueError(f'None of {len(x)} lists for {self.name} belongs to the requested split: there are too few '
                         f'lists of length {self.length}. Use a larger length.')
      count += len(accepted)
      yield accepted

  def _candidates(self, random: np.random.Philox) -> Lists:
    low, high = (0, 1) if self.name == 'InverseBinary' else (1, self.largest)
    x = _draw(random, low, high, (3 * _BLOCK, self.length))
    if self.name in _SMALL_OPERAND:
      x[:, 0] = _draw(random, 2, self.largest // 2, len(x))
    return x


def is_held_out(x: Lists) -> np.ndarray:
  """Returns True for each list of the quarter that never occurs in training: `[n, L]` -> `[n]`.

  The result depends only on the entries: not on the task, the process or the machine.
  """
  state = np.zeros(len(x), np.uint64)
  for column in x.T:
    # One round of SplitMix64 per entry; the products overflow on purpose.
    state = state + column.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = state ^ (state >> np.uint64(31))
  return state % np.uint64(4) == 0


def _draw(random: np.random.Philox, low: int, high: int, size: int | tuple[int, ...]) -> np.ndarray:
  # NumPy guarantees that the raw bits of a bit generator never change, but not the outputs of its `Generator`.
  return low + (random.random_raw(size) % np.uint64(high - low + 1)).astype(np.int64)


@functools.lru_cache(maxsize=32)
def _texts(draws: Draws, number: int) -> list[tuple[str, str]]:
  x = draws.block(number)
  return list(zip(_spell(x), _spell(apply(draws.name, x)), strict=True))


def _spell(lists: Lists) -> list[str]:
  return [' '.join(map(str, entries)) for entries in lists.tolist()]


def _parts(name: str) -> list[str]:
  parts = name.split('+')
  for part in parts:
    if part not in _FUNCTIONS:
      raise ValueError(f'{name!r} names the integer task {part!r}, which does not exist.'
                       f'{nearest(part, NAMES)} Use one of {", ".join(NAMES)}; join several with +.')
  return parts
