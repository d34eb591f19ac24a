"""T5X's cross-entropy, and the log-likelihood of targets."""

import jax
import jax.numpy as jnp

from prompt_tuning.types import Array


def cross_entropy(logits: Array, targets: Array, weights: Array, *, z_loss: float = 0.0,
                  label_smoothing: float = 0.0) -> tuple[Array, dict[str, Array]]:
  """Sums the cross-entropy of all weighted targets.

  With Z = Σ_v exp(logit_v), the loss of target t is −Σ_v p_v (logit_v − log Z) + z_loss · (log Z)². p is 1 at t; with
  label smoothing s it is 1 − s at t and s / (V − 1) elsewhere, and the entropy of p is subtracted, so that a perfect
  prediction has loss 0. (Mesh TensorFlow's and T5X's loss.)

  Args:
    logits: [B, S, V] in float32.
    targets: [B, S] token ids.
    weights: [B, S], 0 for padding.
    z_loss: pulls log Z towards 0.
    label_smoothing: s in [0, 1).

  Returns:
    The sum [], including z-loss, and sums to report: 'loss', 'z_loss', 'correct' and 'weights'.
  """
  log_z = jax.nn.logsumexp(logits, axis=-1)
  of_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  loss = log_z - of_target
  if label_smoothing:
    vocabulary = logits.shape[-1]
    confidence, rest = 1.0 - label_smoothing, label_smoothing / (vocabulary - 1)
    of_all = vocabulary * log_z - jnp.sum(logits, axis=-1)
    loss = (confidence - rest) * loss + rest * of_all
    loss += confidence * jnp.log(confidence) + (vocabulary - 1) * rest * jnp.log(rest + 1e-20)
  penalty = z_loss * log_z**2
  total = jnp.sum((loss + penalty) * weights)
  correct = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights)
  return total, {'loss': total, 'z_loss': jnp.sum(penalty * weights), 'correct': correct,
                 'weights': jnp.sum(weights)}


cross_entropy.over_positions = True


def log_probabilities(logits: Array, targets: Array) -> Array:
  """Returns [B, S], the log-probability of each target, given logits [B, S, V]."""
  of_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return of_target - jax.nn.logsumexp(logits, axis=-1)


def log_likelihood(logits: Array, targets: Array, weights: Array) -> Array:
  """Returns [B], the weighted sum of the log-probabilities of each row's targets."""
  return jnp.sum(log_probabilities(logits, targets) * weights, axis=-1)
