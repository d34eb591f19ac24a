"""Fused arrays, which hold several of the model's arrays side by side, as GPT-2's `c_attn` holds query, key and value.

In a table of names, a part is called

  NAME[0/3]          parts of the same width, one after the other;
  NAME[0/3:grouped]  the first is wider: the queries of H heads before keys and values of fewer KV heads (Phi-3);
  NAME[0/3:heads]    the parts of the first head, then those of the second, and so on (GPT-NeoX, BLOOM);
  NAME[0/2:alternating]  their outputs take turns (gpt-oss);
  NAME[0/3:delta]    queries, keys and values of delta layers (Qwen 3.5).

They are cut along the axis of outputs: the first of an array [out, in], the last of others.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from prompt_tuning.checkpoints.loading import Part, Reader, Rule
from prompt_tuning.types import Flat

PART = re.compile(r'(.*)\[(\d+)/((\d+)(?::(heads|grouped|alternating|delta))?)\]')


@dataclasses.dataclass(frozen=True)
class Cut:
  """How a fused array holds its parts.

  Attributes:
    label: what follows the number of a part in its name, such as '3:heads'.
    shares: relative width of each part.
    repeats: how often the sequence of parts is repeated.
    axis: the axis along which they are cut, 0 or -1.
  """

  label: str
  shares: tuple[int, ...]
  repeats: int = 1
  axis: int = -1

  def names(self, name: str) -> list[str]:
    """Returns the names of the parts of an array."""
    return [f'{name}[{number}/{self.label}]' for number in range(len(self.shares))]

  def divides(self, shape: tuple[int, ...]) -> bool:
    """Returns True if an array can be cut evenly."""
    return bool(shape) and shape[self.axis] % (self.repeats * sum(self.shares)) == 0

  def shape(self, shape: tuple[int, ...], number: int) -> tuple[int, ...]:
    """Returns the shape of a part of an array."""
    found = list(shape)
    found[self.axis] = shape[self.axis] * self.shares[number] // sum(self.shares)
    return tuple(found)

  def places(self, length: int, number: int) -> np.ndarray:
    """Returns where the elements of a part are on an axis of the whole array's length."""
    unit, period = length // (self.repeats * sum(self.shares)), length // self.repeats
    first = unit * sum(self.shares[:number])
    return (period * np.arange(self.repeats)[:, None] + first + np.arange(unit * self.shares[number])).ravel()

  def split(self, array: np.ndarray, axis: int) -> list[np.ndarray]:
    """Returns the parts of an array along an axis."""
    length = array.shape[axis]
    return [np.take(array, self.places(length, number), axis) for number in range(len(self.shares))]

  def join(self, parts: Iterable[np.ndarray], axis: int) -> np.ndarray:
    """Returns the array that holds the parts along an axis: the inverse of `split`."""
    joined = np.concatenate(list(parts), axis)
    length = joined.shape[axis]
    order = np.concatenate([self.places(length, number) for number in range(len(self.shares))])
    return np.take(joined, np.argsort(order), axis)


class Parts:
  """A checkpoint whose fused arrays are read in parts; an array that does not divide evenly is not split.

  Args:
    reader: the checkpoint.
    cuts: regular expression of names -> how the array is cut.
  """

  def __init__(self, reader: Reader, cuts: Mapping[str, Cut]):
    self._reader, self._cuts = reader, cuts
    self.path = reader.path

  def names(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns name -> shape and type, without reading the arrays."""
    found = {}
    for name, (shape, dtype) in self._reader.names().items():
      cut = cut_of(name, self._cuts)
      if cut is None or not cut.divides(shape):
        found[name] = (shape, dtype)
      else:
        found |= {part: (cut.shape(shape, number), dtype) for number, part in enumerate(cut.names(name))}
    return found

  def read(self, name: str, part: Part = ...) -> np.ndarray:
    """Returns one array or one part of a fused array; or a slice of each of its axes."""
    match = PART.fullmatch(name)
    if match is None:
      return self._reader.read(name, part)
    cut = cut_of(match[1], self._cuts)
    shape = self._reader.names()[match[1]][0]
    places = cut.places(shape[cut.axis], int(match[2]))
    spans = [slice(0, length) for length in cut.shape(shape, int(match[2]))] if part is ... else list(part)
    places = places[spans[cut.axis]]
    first, last = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
    spans[cut.axis] = slice(first, last)
    found = self._reader.read(match[1], tuple(spans))
    return found if last - first == len(places) else np.take(found, places - first, cut.axis)


def cut_of(name: str, cuts: Mapping[str, Cut]) -> Cut | None:
  """Returns how an array is cut, or None."""
  return next((cut for pattern, cut in cuts.items() if re.fullmatch(pattern, name)), None)


def cuts_in(rules: Iterable[Rule], config: Any = None) -> dict[str, Cut]:
  """Returns how the arrays of a table of names are cut: regular expression of names -> cut.

  Args:
    rules: the table, in which `{i}` is a layer.
    config: the model's config with `heads`, `kv_heads`, `mlp_dim` and `delta`, which ':heads', ':grouped',
      ':alternating' and ':delta' need.
  """
  found = {}
  for rule in rules:
    match = PART.fullmatch(rule.theirs)
    if match is None:
      continue
    count, how = int(match[4]), match[5]
    heads = config.heads if how else 1
    shares = (heads, *[config.kv_heads or heads] * (count - 1)) if how == 'grouped' else (1,) * count
    shares = config.delta.widths if how == 'delta' else shares
    repeats = {'heads': heads, 'alternating': config.mlp_dim if config else 1}.get(how, 1)
    found[re.escape(match[1]).replace(r'\{i\}', r'\d+')] = Cut(match[3], shares, repeats, 0 if rule.transpose else -1)
  return found


def join(named: Flat, cuts: Mapping[str, Cut]) -> Flat:
  """Returns the arrays with parts joined: the inverse of `Parts`."""
  joined, parts = {}, {}
  for name, array in named.items():
    match = PART.fullmatch(name)
    if match is None:
      joined[name] = array
    else:
      parts.setdefault(match[1], {})[int(match[2])] = array
  for name, found in parts.items():
    cut = cut_of(name, cuts)
    joined[name] = cut.join([found[number] for number in sorted(found)], cut.axis)
  return joined
