"""The classification head that PEFT saves beside an adapter of the task type SEQ_CLS (`modules_to_save`)."""

from collections.abc import Sequence

import numpy as np

from prompt_tuning.checkpoints.loading import Rule
from prompt_tuning.checkpoints.peft_folder import Stored
from prompt_tuning.types import Flat

SEQ_CLS = 'SEQ_CLS'
_PREFIX = 'base_model.'


def split(adapter: Stored, rules: Sequence[Rule]) -> tuple[dict[str, np.ndarray], Flat]:
  """Returns the arrays of an adapter without its head, and the head under this package's names.

  Args:
    adapter: the adapter.
    rules: the table of names of the base model's family.
  """
  if adapter.config.get('task_type') != SEQ_CLS:
    return dict(adapter.arrays), {}
  known = {f'{_PREFIX}{rule.theirs}': rule for rule in reversed(rules) if '{i}' not in rule.theirs}
  head = {known[name].ours: array.T if known[name].transpose else array
          for name, array in adapter.arrays.items() if name in known}
  return {name: array for name, array in adapter.arrays.items() if name not in known}, head
