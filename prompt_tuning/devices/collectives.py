"""Lists the collectives of a compiled function, from the program that XLA generated."""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all', 'collective-permute',
         'collective-broadcast')
_COMPUTATION = re.compile(r'(?:ENTRY )?%?([\w.\-]+) .*\{$')
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%?[\w.\-]+ = (.+?) ([a-z][a-z\-]*)\(')
_CALLED = re.compile(r'\b(?:calls|to_apply|body|\w+_computations?)=(?:%?([\w.\-]+)|\{([^}]*)\})')
_ARRAY = re.compile(r'\b([a-z]+)(\d*)\w*\[([\d,]*)\]')


class Collective(NamedTuple):
  """One collective.

  Attributes:
    kind: one of `KINDS`.
    bytes: the size of its result on each device, summed over its arrays.
    times: how often it runs; None if the program does not specify a loop's trip count.
  """

  kind: str
  bytes: int
  times: int | None


def collectives(compiled: Any) -> list[Collective]:
  """Returns the collectives of a compiled function (`jax.jit(f).lower(...).compile()`), in program order.

  A collective in a loop, such as a scan over layers, is listed once with its times. Both branches of a conditional are
  listed.
  """
  computations: dict[str, list[str]] = {}
  for line in compiled.as_text().splitlines():
    if start := _COMPUTATION.match(line):
      lines = computations.setdefault('ENTRY' if line.startswith('ENTRY') else start[1], [])
    elif line.startswith(' '):
      lines.append(line)

  @functools.cache
  def within(name: str) -> tuple[tuple[Collective, str | None], ...]:
    """Returns the collectives of a computation, each with its channel."""
    found: list[tuple[Collective, str | None]] = []
    for line in computations.get(name, ()):
      if (instruction := _INSTRUCTION.match(line)) is None:
        continue
      shape, operation = instruction.groups()
      kind = operation.removesuffix('-done')  # the shape of `-start` includes the operands
      if kind in KINDS:
        channel = re.search(r'\bchannel_id=(\d+)', line)
        found.append((Collective(kind, _bytes(shape), 1), channel and channel[1]))
      elif operation not in ('async-update', 'async-done'):  # counted at their start
        times = _trips(line, computations) if operation == 'while' else 1
        for called in _CALLED.finditer(line):
          for each in re.findall(r'[\w.\-]+', called[1] or called[2] or ''):
            # XLA for TPUs splits a collective over several fusions, to overlap it with other work.
            seen = {channel for _, channel in found if channel} if operation == 'fusion' else set()
            found += [(one._replace(times=times and one.times and times * one.times), channel)
                      for one, channel in within(each) if channel not in seen]
    return tuple(found)

  return [one for one, _ in within('ENTRY')]


def _trips(line: str, computations: Mapping[str, Sequence[str]]) -> int | None:
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
    return int(known[1])
  # Programs for TPUs lack it. JAX's scans count from 0 up to a constant.
  condition = re.search(r'\bcondition=%?([\w.\-]+)', line)
  text = '\n'.join(computations.get(condition[1], ())) if condition else ''
  if limit := re.search(r'ROOT .* compare\([^,]*, (?:\w+\[\]\S* )?%?([\w.\-]+)\), direction=LT', text):
    count = re.search(rf'%?{re.escape(limit[1])} = s32\[\]\S* constant\((\d+)\)', text)
    return int(count[1]) if count else None
  return None


def _bytes(shape: str) -> int:
  """Returns the bytes of an array such as f32[4,16]{1,0}, or the sum of several."""
  return sum(int(bits or 8) * math.prod(int(n) for n in sizes.split(',') if n) // 8  # pred has no bits in its name
             for _, bits, sizes in _ARRAY.findall(shape))
