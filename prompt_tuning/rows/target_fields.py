"""Further fields of an example's targets, which some losses read: one value, or an array, for each target."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning.rows.assembling import Segment, target_stack
from prompt_tuning.rows.token_ids import require_ids

LABEL_VALUES = 'label_values'  # [classes] of an example: what the outputs of a head must be, see `TextLayout.values`


def with_fields(segment: Segment, fields: Mapping[str, Any], *, vocab_size: int = 0) -> Segment:
  """Returns a laid-out example with further arrays beside its targets, 0 at positions without one.

  Args:
    segment: the laid-out example.
    fields: name -> [S, ...], a value for each target, end token included; whole numbers are token ids.
    vocab_size: V, rows of the embedding that token ids are checked against; 0 does not check.

  Raises:
    ValueError: there are not as many values as targets, or the embedding has no row for a token.
  """
  stack = target_stack(segment)
  weights = segment[stack]['loss_weights']
  places, placed = np.flatnonzero(weights), dict(segment[stack])
  for name, value in fields.items():
    values = np.asarray(value)
    if values.dtype.kind not in 'iuf' or values.ndim == 0:
      raise ValueError(f'An example has {name}={value!r:.60}, expected numbers for each target. Fix the example.')
    placed[name] = np.zeros((len(weights), *values.shape[1:]), np.float32 if values.dtype.kind == 'f' else np.int32)
    if len(places) == 0:  # an example of weight 0 is not learnt
      continue
    if len(values) != len(places):
      raise ValueError(f'An example has {name} for {len(values)} targets, but the loss counts {len(places)} of its '
                       'targets (end token included). Increase max_target_length= if targets are cut; with '
                       'conversations, give train_on=last.')
    if values.dtype.kind != 'f':
      require_ids(values.ravel(), vocab_size, name)
    placed[name][places] = values
  return {**segment, stack: placed}
