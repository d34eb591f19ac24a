"""Orders that depend on a seed alone."""

from collections.abc import Sequence

import numpy as np

from prompt_tuning.data.tasks import Example

ENDLESS = 2**40  # the length of sequences without end


class Shuffled:
  """Examples without end: epoch after epoch, each a permutation that depends on the seed and the epoch alone.

  Grain's own shuffle computes each place separately, which takes milliseconds in sets of a few examples (2 ms in
  one of 8, 0.2 ms in one of 100); a permutation is made once an epoch, whatever the size.
  """

  def __init__(self, examples: Sequence[Example], seed: int):
    self._examples, self._seed = examples, seed
    self._epoch = -1  # which epoch `_order` is of

  def __len__(self) -> int:
    return ENDLESS

  def __getitem__(self, index: int) -> Example:
    epoch, place = divmod(index, len(self._examples))
    if epoch != self._epoch:
      self._order, self._epoch = permutation(len(self._examples), self._seed, epoch), epoch
    return self._examples[int(self._order[place])]


def permutation(count: int, seed: int, turn: int, *, kind: int = 0) -> np.ndarray:
  """Returns the numbers below `count` in an order that depends on the seed, and on which turn of which kind it is."""
  # Raw bits of a counter-based generator are the same in every version of NumPy.
  return np.argsort(np.random.Philox(key=seed, counter=[0, 0, kind, turn]).random_raw(count), kind='stable')
