"""Arrays of single experts, read as one array [E, …] for each layer.

In a table of names, `{e}` is an expert: `model.layers.{i}.mlp.experts.{e}.up_proj.weight`.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from prompt_tuning.checkpoints.loading import Part, Reader, Rule
from prompt_tuning.types import Flat

EXPERT = '{e}'


class Experts:
  """A checkpoint whose arrays of single experts are read together; those of incomplete layers stay apart.

  Args:
    reader: the checkpoint.
    rules: the table of names.
    count: E.
  """

  def __init__(self, reader: Reader, rules: Iterable[Rule], count: int):
    self._reader, self._count = reader, count
    self.path = reader.path
    self._patterns = [re.compile(re.escape(rule.theirs).replace(r'\{i\}', r'\d+').replace(r'\{e\}', r'(\d+)'))
                      for rule in rules if EXPERT in rule.theirs]

  def names(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns name -> shape and type, without reading the arrays."""
    stored = self._reader.names()
    found, grouped = dict(stored), {}
    for name in stored:
      match = next(filter(None, (pattern.fullmatch(name) for pattern in self._patterns)), None)
      if match is not None:
        grouped[f'{name[:match.start(1)]}{EXPERT}{name[match.end(1):]}'] = None
    for name in grouped:
      members = self._members(name)
      if all(member in stored for member in members) and len({stored[member] for member in members}) == 1:
        found[name] = (self._count, *stored[members[0]][0]), stored[members[0]][1]
        for member in members:
          del found[member]
    return found

  def read(self, name: str, part: Part = ...) -> np.ndarray:
    """Returns one array, or a slice of each of its axes."""
    if EXPERT not in name:
      return self._reader.read(name, part)
    members = self._members(name)
    if part is ...:
      return np.stack([self._reader.read(member) for member in members])
    return np.stack([self._reader.read(member, part[1:]) for member in members[part[0]]])

  def _members(self, name: str) -> list[str]:
    return [name.replace(EXPERT, str(number)) for number in range(self._count)]


def split(named: Flat) -> Flat:
  """Returns the arrays with those of experts apart: the inverse of `Experts`."""
  found: dict[str, Any] = {}
  for name, array in named.items():
    if EXPERT in name:
      found |= {name.replace(EXPERT, str(number)): array[number] for number in range(len(array))}
    else:
      found[name] = array
  return found
