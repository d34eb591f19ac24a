"""Seeded mutations of bytes and of JSON values."""

import copy
import random
from typing import Any

VALUES = (None, True, False, 0, -1, 1, 3.5, 10**30, 1e308, float('nan'), float('inf'), '', 'x', '\x1b[2J', '..',
          '\ud800', [], [[1]], {}, {'a': {'b': []}}, 'y' * 3000, 2**31, -2**63)
_PIECES = (b'', b'\x00', b'\xff', b'\n', b'\t', b'"', b'{', b'[' * 300, b'}', b'-1', b'1e999', b'NaN', b'null',
           b'99999999999999', b'\x1b[31m', b'\xed\xa0\x80', b'=', b'%', b'@', b"'")


def of_bytes(content: bytes, chance: random.Random) -> bytes:
  """Returns the bytes with one to four changes: flipped, cut off, removed, repeated, or with something inserted."""
  for _ in range(chance.randint(1, 4)):
    start, stop = sorted(chance.choices(range(len(content) + 1), k=2))
    kind = chance.randrange(6)
    if kind == 0 and content:
      start = min(start, len(content) - 1)
      content = content[:start] + bytes([content[start] ^ 1 << chance.randrange(8)]) + content[start + 1:]
    elif kind == 1:
      content = content[:start]
    elif kind == 2:
      content = content[:start] + content[min(stop, start + 20):]
    elif kind == 3:
      content = content[:stop] + content[start:min(stop, start + 200)] + content[stop:]
    else:
      content = content[:start] + chance.choice(_PIECES) + content[min(stop, start + chance.randrange(3)):]
  return content


def of_json(value: Any, chance: random.Random) -> Any:
  """Returns a copy with one to three values replaced, removed, or put under another name."""
  value = copy.deepcopy(value)
  for _ in range(chance.randint(1, 3)):
    owners = [owner for owner in _containers(value) if owner]
    if not owners:
      return chance.choice(VALUES)
    owner = chance.choice(owners)
    key = chance.choice(list(owner) if isinstance(owner, dict) else range(len(owner)))
    kind = chance.randrange(8)
    if kind == 0:
      del owner[key]
    elif kind == 1 and isinstance(owner, dict):
      owner[f'{key}_x'] = owner.pop(key)
    else:
      owner[key] = copy.deepcopy(chance.choice(VALUES))
  return value


def _containers(value: Any) -> list[Any]:
  if not isinstance(value, dict | list):
    return []
  return [value, *(inner for each in (value.values() if isinstance(value, dict) else value)
                   for inner in _containers(each))]
