"""Margin loss over label words (the perceptron's with margin 0, the hinge with 1).

  max(0, margin − (logit of the right label − logit of the best other label)),

at the position that predicts the first token of the target. All other words of the vocabulary are ignored.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from prompt_tuning.checks import require_type
from prompt_tuning.losses.rows import at_first_target
from prompt_tuning.rows.token_ids import require_ids
from prompt_tuning.types import Array


def margin(logits: Array, targets: Array, weights: Array, *, labels: Sequence[int],
           margin: float = 1.0) -> tuple[Array, dict[str, Array]]:
  """Sums the loss of all rows, each with the weight of its first weighted target; 'loss' / 'weights' is the mean.

  Args:
    logits: [B, T, V].
    targets: [B, T]; a row's first weighted target is its label. If it is not in `labels`, the loss is NaN, see `check`.
    weights: [B, T]; rows without weights are padding.
    labels: the first tokens of the label words.
    margin: required difference between the right label's logit and the best other one.

  Returns:
    The sum [], and sums to report: 'loss', 'correct' (the right label has the highest logit) and 'weights'.
  """
  require_ids(labels, logits.shape[-1], 'A label word')
  ids = jnp.asarray(labels)
  of_labels = at_first_target(logits, weights)[:, ids]
  weight = at_first_target(weights[..., None], weights)[:, 0]
  target = jnp.take_along_axis(targets, jnp.argmax(weights > 0, axis=1)[:, None], axis=1)
  right = target == ids
  lead = jnp.sum(jnp.where(right, of_labels, 0.0), axis=1) - jnp.max(jnp.where(right, -jnp.inf, of_labels), axis=1)
  lead = jnp.where(jnp.any(right, axis=1) | (weight == 0), lead, jnp.nan)
  loss = jnp.sum(jnp.where(weight > 0, jnp.maximum(margin - lead, 0.0), 0.0) * weight)
  return loss, {'loss': loss, 'correct': jnp.sum((lead > 0) * weight), 'weights': jnp.sum(weight)}


def check(targets: np.ndarray, weights: np.ndarray, *, labels: Sequence[int], margin: float = 1.0) -> None:
  """Raises ValueError if there are too few or duplicate labels, or a row's target begins with another token."""
  del margin
  if len(labels) < 2 or len(set(labels)) < len(labels):
    raise ValueError(f'The label words of a margin loss begin with the tokens {list(labels)}. Give at least two label '
                     'words with different first tokens.')
  first = np.argmax(weights > 0, axis=1)
  found = np.take_along_axis(targets, first[:, None], axis=1)[:, 0][np.any(weights > 0, axis=1)]
  wrong = sorted({*found.tolist()} - {*labels})
  if wrong:
    raise ValueError(f'A target begins with the token {wrong[0]}, but the label words begin with {list(labels)}. '
                     'Add the label word, or fix the example.')


margin.check = check


def prepare(vocabulary: Any, *, label_words: Sequence[str], margin: float = 1.0) -> dict[str, Any]:
  """Returns the keyword arguments of `margin` for label words. Raises ValueError if a word has no token."""
  require_type('label_words', label_words, Sequence[str])
  tokens = [list(vocabulary.encode(word)) for word in label_words]
  if not all(tokens):
    raise ValueError(f'label_words={list(label_words)} cannot be used: the vocabulary has no token for '
                     f'{label_words[tokens.index([])]!r}. Give other words.')
  return {'labels': tuple(ids[0] for ids in tokens), 'margin': margin}


margin.prepare = prepare
