"""Buckets of lengths: batches of examples about as long as one another, in arrays as long as their bucket."""

from collections.abc import Mapping, Sequence

from prompt_tuning.data.packing import Row
from prompt_tuning.data.shuffled import permutation
from prompt_tuning.rows import layouts

_KIND = 1  # sets the order of batches apart from that of examples


class Buckets:
  """The lengths of rows that batches may have, of which each has the shortest that its rows fit into.

  Args:
    lengths: of rows by stack, ascending.
  """

  def __init__(self, lengths: Sequence[Mapping[str, int]]):
    self._lengths = lengths

  def lengths(self, rows: Sequence[Row]) -> Mapping[str, int]:
    """Returns how long the rows of a batch of these are, each of one example."""
    return self._lengths[max(self._index(example) for example, in rows)]

  def rows(self, examples: Sequence[layouts.Example], batch_size: int, *, seed: int, block: int) -> list[Row]:
    """Returns rows of one example each, every `batch_size` of them about as long as one another.

    These batches follow one another in an order that the seed decides. Where two buckets meet, one has rows of both.
    """
    rows = [[example] for example in sorted(examples, key=self._index)]
    batches = [rows[first:first + batch_size] for first in range(0, len(rows), batch_size)]
    return [row for i in permutation(len(batches), seed, block, kind=_KIND) for row in batches[i]]

  def _index(self, example: layouts.Example) -> int:
    return next(i for i, lengths in enumerate(self._lengths)
                if all(len(example[stack]['tokens']) <= length for stack, length in lengths.items()))


def bucket_lengths(buckets: Sequence[int], longest: int, *, packed: bool) -> tuple[int, ...]:
  """Returns the lengths of inputs that batches may have, the longest included.

  Raises:
    ValueError: they do not ascend up to the longest, or rows shall be packed too.
  """
  try:
    found = tuple(int(length) for length in buckets)
  except (TypeError, ValueError):
    found = ()
  if not found or list(found) != sorted({*found}) or found[0] < 1 or found[-1] > longest:
    raise ValueError(f'The buckets are {buckets!r}. Give lengths of inputs in ascending order, up to the most tokens '
                     f'of inputs, {longest}, as in (64, 128, 256).')
  if packed:
    raise ValueError(f'Rows shall be packed, and batched in the buckets {buckets!r}. Either saves padding: leave out '
                     'pack or buckets.')
  return found if found[-1] == longest else (*found, longest)
