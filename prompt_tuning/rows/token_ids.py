"""The check of token ids against the rows of an embedding; out of range, JAX reads another row without a word."""

from collections.abc import Sequence

import numpy as np


def require_ids(ids: Sequence[int], size: int, owner: str) -> None:
  """Ensures that an embedding has a row for each id.

  Args:
    ids: token ids.
    size: V, rows of the embedding; 0 checks nothing.
    owner: where the ids come from, for the message.

  Raises:
    ValueError: an id has no row.
  """
  if not size or len(ids) == 0:
    return
  low, high = int(np.min(ids)), int(np.max(ids))
  if low < 0 or high >= size:
    raise ValueError(f'{owner} holds the token id {low if low < 0 else high}, but the embedding of the model has '
                     f'{size} rows. Use the vocabulary of this model, or texts without tokens that were added to it.')
