"""Tasks on random bits that pretrained transformers learn with their attention frozen (Lu et al. 2021).

  BitXor     two strings of n bits in a row; bit i of their exclusive or is the label of bit n+i
  BitMemory  several strings of n bits, then one of them again with half its bits masked (2); its bits are the labels

Examples are endless: example i depends on the seed and on i only. The labels belong to the last n positions; see
`layouts.LabelLayout`.
"""

import dataclasses
import functools
import zlib

import numpy as np

from prompt_tuning.data.tasks import Example, First, Task
from prompt_tuning.names import nearest

NAMES = ('BitXor', 'BitMemory')
LENGTH, STRINGS = 5, 3
VALIDATION_EXAMPLES = 800
_BLOCK = 1024  # examples per draw
_ENDLESS = 2**40
_VALIDATION_SEED = 2**32  # no training seed is this large


def task(name: str, *, length: int = LENGTH, strings: int = STRINGS) -> Task:
  """Returns a bit task: an endless 'train' split, and 'validation', 800 examples drawn with another seed.

  Args:
    name: one of `NAMES`.
    length: n, bits per string.
    strings: the number of strings before the masked one.

  Raises:
    ValueError: the task does not exist, or a number is below 1.
  """
  if name not in NAMES:
    raise ValueError(f'There is no bit task {name!r}.{nearest(name, NAMES)} Use one of {", ".join(NAMES)}.')
  if length < 1 or strings < 1:
    raise ValueError(f'{name} got strings={strings} and length={length}. Both must be at least 1.')
  train = Draws(name, length, strings)
  return Task(name, {'train': train, 'validation': First(train.draw(_VALIDATION_SEED), VALIDATION_EXAMPLES)})


@dataclasses.dataclass(frozen=True)
class Draws:
  """An endless sequence of examples.

  Attributes:
    name: the task's name.
    length: n.
    strings: see `task`.
    seed: determines the examples; `draw` returns the sequence for another seed.
  """

  name: str
  length: int
  strings: int
  seed: int = 0

  def draw(self, seed: int) -> 'Draws':
    """Returns the sequence for another seed."""
    return dataclasses.replace(self, seed=seed)

  def __len__(self) -> int:
    return _ENDLESS

  def __getitem__(self, index: int) -> Example:
    inputs, targets = _block(self, index // _BLOCK)
    return {'inputs': inputs[index % _BLOCK], 'targets': targets[index % _BLOCK], 'inputs_ends': False,
            'targets_ends': False}


@functools.lru_cache(maxsize=8)
def _block(draws: Draws, number: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns inputs `[1024, T]` and labels `[1024, n]` of the examples from number·1024 on."""
  key = zlib.crc32(draws.name.encode()) << 64 | draws.seed
  random = np.random.Philox(key=key, counter=[0, 0, 0, number])
  # NumPy guarantees that the raw bits of a bit generator never change.
  draw = lambda count, below: (random.random_raw((_BLOCK, count)) % np.uint64(below)).astype(np.int32)
  n = draws.length
  if draws.name == 'BitXor':
    bits = draw(2 * n, 2)
    return bits, bits[:, :n] ^ bits[:, n:]
  bits, chosen, masked = draw(draws.strings * n, 2), draw(1, draws.strings), draw(n, 2)
  shown = np.take_along_axis(bits, chosen * n + np.arange(n), axis=1)
  return np.concatenate([bits, np.where(masked, 2, shown)], axis=1), shown
