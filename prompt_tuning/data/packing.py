"""Packing: several examples in one row, so that short ones leave little padding."""

from collections.abc import Mapping, Sequence

import numpy as np

from prompt_tuning import layouts

Row = list[layouts.Example]


def pack(examples: Sequence[layouts.Example], lengths: Mapping[str, int], *, most: int) -> list[Row]:
  """Returns rows that hold every example once: each goes into the first row with room for it in every stack.

  Args:
    examples: laid out.
    lengths: of the rows of each stack.
    most: how many examples a row may hold; 1 is no packing.
  """
  if most == 1:
    return [[example] for example in examples]
  capacity = np.array([*lengths.values(), most])
  room = np.tile(capacity, (len(examples), 1))  # [rows that may be needed, stacks + 1]
  rows: list[Row] = []
  for example in examples:
    size = [*(len(example[stack]['tokens']) for stack in lengths), 1]
    # The row after the last one in use is empty, so the search always ends at most there.
    first = int(np.argmax((room[:len(rows) + 1] >= size).all(axis=1)))
    if first == len(rows):
      rows.append([])
    rows[first].append(example)
    room[first] -= size
  return rows
