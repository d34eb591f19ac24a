"""Scores of given targets, token by token, computed on the device for a few positions at a time."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning.decoding.choose import first_of_largest
from prompt_tuning.decoding.joint import one_each
from prompt_tuning.devices import sharding
from prompt_tuning.losses.chunks import at_targets
from prompt_tuning.models.compiled import hidden_states
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.rows.layouts import target_rows
from prompt_tuning.types import Array, Batch, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenScores:
  """The scores of tokens, given all that comes before each: S of one text, or [B, S] of a batch.

  Attributes:
    ids: [S] the tokens.
    log_probs: [S] their log-probabilities.
    top_ids: [S, K] the K likeliest tokens at their places, the likeliest first.
    top_log_probs: [S, K] the log-probabilities of these.
  """

  ids: Array
  log_probs: Array
  top_ids: Array
  top_log_probs: Array

  @property
  def total(self) -> float:
    """The log-likelihood of a text: the sum of its tokens' log-probabilities."""
    return float(np.sum(self.log_probs, dtype=np.float64))

  @property
  def is_greedy(self) -> bool:
    """Whether each token of a text is a likeliest one, so that greedy decoding would generate it."""
    return bool(np.all(self.log_probs == self.top_log_probs[:, 0]))


@functools.partial(jax.jit, static_argnames=('module', 'top'))
def score_tokens(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning, *,
                 top: int = 1) -> TokenScores:
  """Returns the scores [B, S] of a batch's targets; 0 at positions without a target.

  Args:
    module: the frozen model.
    params: its parameters.
    batch: with targets.
    conditioning: the model's conditioning.
    top: K.
  """
  rows = target_rows(batch)
  x, project = hidden_states(module, params, batch, conditioning)
  scores = at_targets(functools.partial(scores_of, top=top), project, x, rows['loss_weights'], rows['targets'])
  return sharding.whole(module.config.mesh, one_each(scores, conditioning.members))


def scores_of(logits: Array, targets: Array, *, top: int) -> TokenScores:
  """Returns the scores of targets [B, S], given logits [B, S, V]."""
  log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  own = jnp.take_along_axis(logits, targets[..., None], axis=-1)
  if top == 1:  # much faster than top_k
    ids = first_of_largest(logits)[..., None]
    best = jnp.max(logits, axis=-1, keepdims=True)
  else:
    best, ids = jax.lax.top_k(logits, top)
  return TokenScores(targets, (own - log_z)[..., 0], ids, best - log_z)
