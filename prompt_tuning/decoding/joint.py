"""Rows whose next tokens are chosen together: consecutive rows of a batch that read one input (`models/ensembles.py`).

All M rows of an input get the log of the mean of their probabilities as logits. Whatever chooses the next token, from
the same logits with the same noise, therefore chooses the same one for each of them: greedy, sampling or beam search.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from prompt_tuning.types import Array

T = TypeVar('T')


def joint(logits: Array, members: int) -> Array:
  """Returns log (1/M Σ softmax) of each M consecutive rows, for each of these rows: [B·M, ..., V]; as given if M is 1.
  """
  if members == 1:
    return logits
  found = jax.nn.log_softmax(logits.astype(jnp.float32)).reshape(-1, members, *logits.shape[1:])
  return jnp.repeat(jax.nn.logsumexp(found, axis=1) - math.log(members), members, axis=0)


def one_each(tree: T, members: int) -> T:
  """Returns arrays [B·M, ...] of rows that are equal for each M consecutive ones as [B, ...]."""
  return tree if members == 1 else jax.tree.map(lambda array: array[::members], tree)


def joined(steps: Any, members: int) -> Any:
  """Returns the decoding step of a batch with joint logits; see `Joined`."""
  return steps if members == 1 else Joined(steps, members)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Joined:
  """The decoding step of rows whose tokens are chosen together.

  Attributes:
    steps: the model's step.
    members: M.
  """

  steps: Any
  members: int = dataclasses.field(metadata={'static': True})

  def __call__(self, params: Mapping[str, Any], ids: Array, index: Array, cache: Any) -> tuple[Array, Any]:
    """Returns joint logits [B·M, N, V], and the cache, see `decoding`."""
    logits, cache = self.steps(params, ids, index, cache)
    return joint(logits, self.members), cache
