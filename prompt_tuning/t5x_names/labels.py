"""`labels.…`: tasks that label positions of their input, for models with new ends."""

import functools

from prompt_tuning.data import bits, digits
from prompt_tuning.data.tasks import Task

__all__ = ['Bits', 'Digits']


def Bits(name: str = 'BitXor', length: int = bits.LENGTH, strings: int = bits.STRINGS) -> Task:
  """A task of bits, see `data/bits.py`.

  Args:
    name: 'BitXor' or 'BitMemory'.
    length: the bits of a string.
    strings: how many `BitMemory` shows.
  """
  return bits.task(name, length=length, strings=strings)


@functools.lru_cache(maxsize=4)  # a run asks for it once for training and once for each evaluation
def Digits(patch: int = 4) -> Task:
  """Handwritten digits as patches, see `data/digits.py`.

  Args:
    patch: the side of a patch.
  """
  return digits.task(patch)
