"""`integers.…`: tasks on lists of integers of another shape than the shipped model's."""

from prompt_tuning.data import integers
from prompt_tuning.data.tasks import Mixture
from prompt_tuning.data.tasks import Task as AnyTask

__all__ = ['Task']


def Task(name: str, length: int = integers.LENGTH, largest: int = integers.LARGEST, zeros: int = 0,
         ends: bool = True) -> AnyTask | Mixture:
  """An integer task, or the mixture of those that are pretrained, see `data/integers.py`.

  Args:
    name: such as 'Add1' or 'SortAscending+Add1', or 'IntegerMixture'.
    length: entries of a list.
    largest: the largest entry.
    zeros: this many zeros stand in front of the input.
    ends: targets have an end token.
  """
  shape = {'length': length, 'largest': largest, 'zeros': zeros, 'ends': ends}
  return integers.mixture(**shape) if name == integers.MIXTURE else integers.task(name, **shape)
