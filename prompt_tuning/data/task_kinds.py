"""Tasks that are made of options: on integers, bits and digits."""

from prompt_tuning.data import bits, digits, integers
from prompt_tuning.data.tasks import Mixture, Task


def integer_task(*, task: str, length: int = integers.LENGTH, largest: int = integers.LARGEST, zeros: int = 0,
                 ends: bool = True) -> Task | Mixture:
  """Returns an integer task, or the mixture of those that are pretrained; see `integers.task`."""
  shape = {'length': length, 'largest': largest, 'zeros': zeros, 'ends': ends}
  return integers.mixture(**shape) if task == integers.MIXTURE else integers.task(task, **shape)


def bit_task(*, task: str = 'BitXor', length: int = bits.LENGTH, strings: int = bits.STRINGS) -> Task:
  """Returns a task of bits; see `bits.task`."""
  return bits.task(task, length=length, strings=strings)


def digit_task(*, patch: int = 4) -> Task:
  """Returns handwritten digits as patches; see `digits.task`."""
  return digits.task(patch)
