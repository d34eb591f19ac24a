"""A digest of a task's examples, which tells whether a run is resumed with what it began to learn."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.tasks import Mixture, Task

_MOST = 20_000  # examples that are read; of more, evenly spaced ones
_DECIDING = ('inputs', 'targets', 'loss_weight', 'inputs_ends', 'targets_ends', 'targets_end')


def digest(task: Task | Mixture, split: str, fields: Sequence[str] = ()) -> str:
  """Returns a digest of what a split teaches: names, rates, numbers of examples, and the examples.

  Args:
    task: the task.
    split: its split.
    fields: further keys of an example that decide, see `Loss.fields`.
  """
  found = hashlib.sha256()
  for part, rate in task.parts(split):
    examples = part.split(split)
    endless = hasattr(examples, 'draw')
    count = 0 if endless else len(examples)
    found.update(f'{rate} {count}'.encode())
    for i in np.linspace(0, count - 1, min(count, _MOST), dtype=int):
      example = examples[int(i)]
      kept = {name: example[name] for name in _DECIDING if name in example}
      found.update(json.dumps(kept, default=_plain, sort_keys=True).encode())
      if fields:
        from prompt_tuning.data import records  # loads array_record

        records.update(found, {name: example.get(name) for name in fields})
  return found.hexdigest()[:16]


def _plain(value: Any) -> Any:
  return value.tolist() if isinstance(value, np.ndarray | np.generic) else repr(value)
