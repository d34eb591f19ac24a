"""Orders that depend only on a seed."""

from collections.abc import Sequence

import numpy as np

from prompt_tuning.data.tasks import Example

ENDLESS = 2**40  # the length of endless sequences


class Shuffled:
  """An endless sequence of examples: every epoch is a permutation that depends only on the seed and the epoch.

  Grain's shuffle computes each position separately, which takes milliseconds for small sets (2 ms for 8 examples,
  0.2 ms for 100); a permutation is computed once per epoch, whatever the size.
  """

  def __init__(self, examples: Sequence[Example], seed: int):
    self._examples, self._seed = examples, seed
    self._epoch = -1  # the epoch of `_order`

  def __len__(self) -> int:
    return ENDLESS

  def __getitem__(self, index: int) -> Example:
    epoch, place = divmod(index, len(self._examples))
    if epoch != self._epoch:
      self._order, self._epoch = permutation(len(self._examples), self._seed, epoch), epoch
    return self._examples[int(self._order[place])]


def permutation(count: int, seed: int, turn: int, *, kind: int = 0) -> np.ndarray:
  """Returns the numbers below `count` in an order that depends on seed, turn and kind."""
  # Raw bits of a counter-based generator are the same in every version of NumPy.
  return np.argsort(np.random.Philox(key=seed, counter=[0, 0, kind, turn]).random_raw(count), kind='stable')
