"""Learning rates that suit a model: an update of Adafactor, or of Adam, has about the rate as its root mean square.

So a rate is large or small relative to the numbers that it changes. 0.3, the rate of prompt tuning with T5, suits
embeddings whose root mean square is 1 or more. Where that is 0.12, the same rate makes a prompt several times as large
in a hundred steps.
"""

import jax.numpy as jnp

from prompt_tuning.types import Array

_SAMPLE = 5000  # SentencePiece sorts by frequency: rows that are never trained come last
_FAR = 10  # times


def in_scale(rate: float, embeddings: Array) -> float:
  """Returns a rate for vectors among the rows of an embedding [V, D].

  Args:
    rate: the rate where the root mean square of the embedding is 1; larger ones do not raise it.
    embeddings: the embedding.

  Returns:
    The rate, to one digit.
  """
  scale = float(jnp.sqrt(jnp.mean(jnp.square(jnp.asarray(embeddings[:_SAMPLE], jnp.float32)))))
  return float(f'{rate * min(1.0, scale):.0e}') if 0 < scale < float('inf') else rate


def warning(given: float, advised: float) -> str | None:
  """Returns a warning about a rate more than ten times above or below the one for the model and method, or None."""
  if advised / _FAR <= given <= advised * _FAR:
    return None
  far = 'more than ten times' if given > advised else 'less than a tenth of'
  return f'learning_rate={given:g} is {far} {advised:g}, which suits this model and method.'
