"""What users type: registries of names, the nearest known name for messages about unknown ones, numbers in a range."""

import math
import numbers
import re
from collections.abc import Iterable, Mapping
from typing import Any


class Registry(dict):
  """Things by name, to which users may add theirs.

  Args:
    kind: what the things are, for messages, such as 'method'.
    entries: those of the package.
    advice: the end of the message about an unknown name.
  """

  def __init__(self, kind: str, entries: Mapping[str, Any], advice: str = ''):
    super().__init__(entries)
    self.kind, self._advice = kind, advice

  def register(self, name: str, thing: Any) -> Any:
    """Adds a thing, and returns it.

    Raises:
      ValueError: another thing has this name.
    """
    if self.setdefault(name, thing) is not thing:
      raise ValueError(f'There is already a {self.kind} {name!r} ({getattr(self[name], "__name__", self[name])}). '
                       'Give the new one another name.')
    return thing

  def find(self, name: str) -> Any:
    """Returns the thing of a name.

    Raises:
      ValueError: there is none; the message names the nearest.
    """
    if name not in self:
      raise ValueError(f'There is no {self.kind} {name!r}.{nearest(name, self)} Choose one of {", ".join(self)}'
                       f'{self._advice}.')
    return self[name]


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns the end of an error message that names the nearest known names, or nothing."""
  import difflib  # only needed when something went wrong

  close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
  return f' Did you mean {" or ".join(map(printable, close))}?' if close else ''


def printable(text: str) -> str:
  """Returns a text from a file for a message: control characters are escaped."""
  return ''.join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def require_known(given: Iterable[str], known: Iterable[str], owner: str, kind: str = 'setting') -> None:
  """Raises ValueError for a name that `owner` does not have; the message names the nearest."""
  known = list(known)
  for name in given:
    if name not in known:
      raise ValueError(f'{owner} has no {kind} {name!r}.{nearest(name, known)} It has {", ".join(known) or "none"}.')


def require_number(name: str, value: Any, *, least: float | None = None, above: float | None = None,
                   below: float | None = None, most: float | None = None, whole: bool = False,
                   none: bool = False) -> None:
  """Ensures that a setting is a finite number in a range; True and False are no numbers.

  Args:
    name: the setting's name, for the message.
    value: its value.
    least: the smallest possible value.
    above: all values are larger than this.
    below: all values are smaller than this.
    most: the largest possible value.
    whole: it must be a whole number.
    none: it may be None.

  Raises:
    ValueError: it is not.
  """
  if none and value is None:
    return
  kind = numbers.Integral if whole else numbers.Real
  fits = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) and all((
    least is None or value >= least, above is None or value > above, below is None or value < below,
    most is None or value <= most))
  if not fits:
    ends = [f'{word} {end}' for word, end in (('of at least', least), ('above', above), ('below', below),
                                              ('of at most', most)) if end is not None]
    raise ValueError(f'{name}={value!r} cannot be used: expected a {"whole " if whole else ""}number'
                     f'{" " * bool(ends)}{" and ".join(ends)}{", or None" * none}.')


def translated(message: str, words: Mapping[str, str]) -> str:
  """Returns a message with `name=` in other words; `data=2` and `model=4` are axes of a mesh, which stay."""
  return re.sub(r"(?<![\w.\-'/])(?!(?:data|model)=-?\d+(?! cannot be used))(\w+)=",
                lambda match: f'{words[match[1]]}=' if match[1] in words else match[0], message)
