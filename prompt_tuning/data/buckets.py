"""Length buckets: each batch holds examples of similar length, in arrays as long as its bucket."""

from collections.abc import Mapping, Sequence

import numpy as np

from prompt_tuning.data.packing import Row
from prompt_tuning.data.shuffled import permutation
from prompt_tuning.rows import layouts

_KIND = 1  # makes the order of batches independent of that of examples


class Buckets:
  """The row lengths that batches may have; each batch gets the shortest that fits its rows.

  Args:
    lengths: row lengths by stack, ascending.
  """

  def __init__(self, lengths: Sequence[Mapping[str, int]]):
    self._lengths = lengths

  def lengths(self, rows: Sequence[Row]) -> Mapping[str, int]:
    """Returns the row lengths of a batch of these rows, each with one example."""
    return self._lengths[max(self._index(example) for example, in rows)]

  def rows(self, examples: Sequence[layouts.Segment], batch_size: int, *, seed: int, block: int) -> list[Row]:
    """Returns rows of one example each; every `batch_size` consecutive rows have similar lengths.

    The seed decides the order of these batches. At the border between two buckets, one batch has rows of both.
    """
    rows = [[example] for example in sorted(examples, key=self._index)]
    batches = [rows[first:first + batch_size] for first in range(0, len(rows), batch_size)]
    return [row for i in permutation(len(batches), seed, block, kind=_KIND) for row in batches[i]]

  def _index(self, example: layouts.Segment) -> int:
    return next(i for i, lengths in enumerate(self._lengths)
                if all(len(example[stack]['tokens']) <= length for stack, length in lengths.items()))


def usual_length(lengths: Sequence[int]) -> int | None:
  """Returns the length that all rows but a few have at most, if the longest is far longer; else None.

  Far longer is more than twice what nine in ten rows have.
  """
  limit = 2 * max(8, int(np.percentile(lengths, 90, method='lower')))
  return max(length for length in lengths if length <= limit) if max(lengths) > limit else None


def bucket_lengths(buckets: Sequence[int], longest: int, *, packed: bool) -> tuple[int, ...]:
  """Returns the input lengths that batches may have, including the longest.

  Raises:
    ValueError: the lengths are not ascending, one exceeds the longest, or rows are packed too.
  """
  try:
    found = tuple(int(length) for length in buckets)
  except (TypeError, ValueError):
    found = ()
  if not found or list(found) != sorted({*found}) or found[0] < 1 or found[-1] > longest:
    raise ValueError(f'buckets={buckets!r} is not valid. Give input lengths in ascending order, at most the longest '
                     f'inputs, {longest} tokens, for example (64, 128, 256).')
  if packed:
    raise ValueError(f'pack and buckets={buckets!r} cannot be used together. Each saves padding alone: leave one of '
                     'them out.')
  return found if found[-1] == longest else (*found, longest)
