"""Fused arrays, which hold several of the model's arrays side by side, as GPT-2's `c_attn` holds query, key and value.

They are read as parts, `NAME[0/3]`, `NAME[1/3]`, …, split along the last axis.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from prompt_tuning.checkpoints.loading import Part, Reader
from prompt_tuning.types import Flat

_PART = re.compile(r'(.*)\[(\d+)/(\d+)\]')


class Parts:
  """A checkpoint whose fused arrays are read in parts; an array that does not divide evenly is not split.

  Args:
    reader: the checkpoint.
    fused: regular expression of names -> number of parts.
  """

  def __init__(self, reader: Reader, fused: Mapping[str, int]):
    self._reader, self._fused = reader, fused
    self.path = reader.path

  def names(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns name -> shape and type, without reading the arrays."""
    found = {}
    for name, (shape, dtype) in self._reader.names().items():
      count = next((count for pattern, count in self._fused.items() if re.fullmatch(pattern, name)), 1)
      if count == 1 or not shape or shape[-1] % count:
        found[name] = (shape, dtype)
      else:
        found |= {f'{name}[{i}/{count}]': ((*shape[:-1], shape[-1] // count), dtype) for i in range(count)}
    return found

  def read(self, name: str, part: Part = ...) -> np.ndarray:
    """Returns one array or one part of a fused array; or a slice of each of its axes."""
    match = _PART.fullmatch(name)
    if match is None:
      return self._reader.read(name, part)
    shape = self.names()[name][0]
    *before, last = map(slice, shape) if part is ... else part
    start, stop, _ = last.indices(shape[-1])
    first = int(match[2]) * shape[-1]
    return self._reader.read(match[1], (*before, slice(first + start, first + stop)))


def fused_in(names: Iterable[str]) -> dict[str, int]:
  """Returns what `Parts` cuts for a table of names, in which parts are named `NAME[0/3]` and `{i}` is a layer."""
  matches = filter(None, map(_PART.fullmatch, names))
  return {re.escape(match[1]).replace(r'\{i\}', r'\d+'): int(match[3]) for match in matches}


def join(named: Flat) -> Flat:
  """Returns the arrays with parts concatenated: the inverse of `Parts`."""
  joined, parts = {}, {}
  for name, array in named.items():
    match = _PART.fullmatch(name)
    if match is None:
      joined[name] = array
    else:
      parts.setdefault(match[1], {})[int(match[2])] = array
  return joined | {name: np.concatenate([found[i] for i in sorted(found)], axis=-1) for name, found in parts.items()}
