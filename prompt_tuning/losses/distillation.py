"""Distillation: the model learns a teacher's probabilities of the next token (Hinton et al. 2015, arXiv:1503.02531).

At a position, the teacher gives its K likeliest tokens the probabilities p_k, and all others together r = 1 − Σ_k p_k.
With the model's probabilities q_k, the loss of the position is that of these K + 1 classes,

  −Σ_k p_k log q_k − r log(1 − Σ_k q_k).

It is the divergence KL(p ‖ q) plus the entropy of p, which no training changes. With K = V, both are those of the whole
vocabulary. In a cartridge, the teacher is the model itself, which has read a document.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr

from prompt_tuning.types import Array

FIELDS = ('teacher_ids', 'teacher_log_probs')


def distillation(logits: Array, targets: Array, weights: Array, teacher_ids: Array,
                 teacher_log_probs: Array) -> tuple[Array, dict[str, Array]]:
  """Sums the cross-entropy with the teacher's probabilities, over all weighted positions.

  Args:
    logits: [B, S, V] in float32.
    targets: [B, S] token ids, which only 'correct' reads.
    weights: [B, S], 0 for padding.
    teacher_ids: [B, S, K], the teacher's likeliest tokens, each once.
    teacher_log_probs: [B, S, K], their log-probabilities.

  Returns:
    The sum [], and sums to report: 'loss', 'entropy' (the teacher's, so the divergence is 'loss' − 'entropy'),
    'correct' and 'weights'.
  """
  log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  probabilities = jnp.exp(teacher_log_probs)
  loss = -jnp.sum(probabilities * (jnp.take_along_axis(logits, teacher_ids, axis=-1) - log_z), axis=-1)
  entropy = jnp.sum(entr(probabilities), axis=-1)
  if teacher_ids.shape[-1] < logits.shape[-1]:
    rest = jnp.clip(1.0 - jnp.sum(probabilities, axis=-1), 0.0, 1.0)
    # Of the other tokens themselves: 1 − Σ_k q_k has no digits left where the model is sure.
    others = jnp.put_along_axis(logits, teacher_ids, -jnp.inf, axis=-1, inplace=False)
    loss -= rest * (jax.nn.logsumexp(others, axis=-1) - log_z[..., 0])
    entropy += entr(rest)
  correct = jnp.argmax(logits, axis=-1) == targets
  total, found = jnp.sum(loss * weights), {'entropy': entropy, 'correct': correct, 'weights': jnp.ones_like(weights)}
  return total, {'loss': total, **{name: jnp.sum(each * weights) for name, each in found.items()}}


def check(targets: np.ndarray, weights: np.ndarray, teacher_ids: np.ndarray, teacher_log_probs: np.ndarray) -> None:
  """Raises ValueError if a position has a token twice, or numbers that are no log-probabilities."""
  del targets
  ids = np.sort(teacher_ids[weights != 0], axis=-1)
  if (ids[:, 1:] == ids[:, :-1]).any():
    twice = int(ids[:, 1:][ids[:, 1:] == ids[:, :-1]][0])
    raise ValueError(f'teacher_ids of a position hold the token {twice} twice. Give the likeliest tokens, each once.')
  total = np.exp(teacher_log_probs[weights != 0].astype(np.float64)).sum(-1)
  if not (total <= 1.01).all():
    raise ValueError(f'teacher_log_probs of a position are those of probabilities that add up to {total.max():.4g}, '
                     'expected at most 1. Give natural logarithms of probabilities.')


distillation.over_positions = True
distillation.fields = FIELDS
distillation.check = check
