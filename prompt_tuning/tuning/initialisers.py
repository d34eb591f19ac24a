"""First values of a prompt: functions `(key, shape) -> array`, as Flax's own initialisers are; `shape` is (P, D)."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning.types import Array

Initializer = Callable[..., Array]


class Encoder(Protocol):
  """A vocabulary: turns text into token ids."""

  def encode(self, text: str) -> Sequence[int]: ...


def from_array(prompt: Array, source: str = 'The given array') -> Initializer:
  """Starts from given vectors [P, D].

  Args:
    prompt: the vectors.
    source: where they come from, for messages.

  Raises:
    ValueError: (when called) the shape asked for is another.
  """

  def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    del key
    _check_shape(source, prompt, shape)
    return jnp.array(prompt, dtype)  # a copy: training gives the memory of its first values away

  return initialise


def from_sample_of_embeddings(embeddings: Array, population_size: int | None = 5000) -> Initializer:
  """Starts from rows of the embedding drawn at random, without replacement unless more are needed than there are.

  Args:
    embeddings: [V, D].
    population_size: draw from this many first rows (SentencePiece sorts by frequency); None is all.
  """
  population = len(embeddings) if population_size is None else population_size
  if not 0 < population <= len(embeddings):
    raise ValueError(f'population_size is {population}, but the embedding has {len(embeddings)} rows. '
                     f'Choose 1 to {len(embeddings)}.')

  def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    _check_width(embeddings, shape)
    rows = jax.random.choice(key, population, (shape[0],), replace=shape[0] > population)
    return jnp.asarray(embeddings)[rows].astype(dtype)

  return initialise


def from_embedded_list(embeddings: Array, vocab: Encoder, texts: Sequence[str],
                       initializer: Initializer = nn.initializers.uniform(0.5)) -> Initializer:
  """Starts with one vector for each text, the mean of its tokens' embeddings: class labels, for example.

  Args:
    embeddings: [V, D].
    vocab: encodes the texts, without an end token.
    texts: at most P of them.
    initializer: makes the rows that are left.

  Raises:
    ValueError: (when called) there is no text, or more than vectors, or one without a token.
  """

  def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    if not texts:
      raise ValueError('There is no text to start from. Give at least one, or choose another initialiser.')
    if len(texts) > shape[0]:
      raise ValueError(f'{len(texts)} texts shall start a prompt of {shape[0]} vectors. '
                       f'Set PROMPT_LENGTH to at least {len(texts)}, or give fewer texts.')
    means = [np.mean(embed(embeddings, vocab, text), axis=0) for text in texts]
    return _fill(key, np.array(means), embeddings, shape, initializer, dtype)

  return initialise


def from_embedded_string(embeddings: Array, vocab: Encoder, text: str,
                         initializer: Initializer = nn.initializers.uniform(0.5)) -> Initializer:
  """Starts with the embeddings of a text's tokens, one vector a token, cut at P.

  Args:
    embeddings: [V, D].
    vocab: encodes the text, without an end token.
    text: a prompt in words.
    initializer: makes the rows behind the text.
  """

  def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    return _fill(key, embed(embeddings, vocab, text)[:shape[0]], embeddings, shape, initializer, dtype)

  return initialise


def embed(embeddings: Array, vocab: Encoder, text: str) -> np.ndarray:
  ids = list(vocab.encode(text))
  if not ids:
    raise ValueError(f'The text {text!r} has no token in this vocabulary. Give another text.')
  return np.asarray(embeddings)[np.array(ids)]


def _fill(key: Array, rows: np.ndarray, embeddings: Array, shape: Sequence[int], initializer: Initializer,
          dtype: Any) -> Array:
  _check_width(embeddings, shape)
  rest = initializer(key, tuple(shape), dtype)
  return jnp.concatenate([jnp.asarray(rows, dtype), rest[len(rows):]])


def _check_width(embeddings: Array, shape: Sequence[int]) -> None:
  if embeddings.shape[-1] != shape[-1]:
    raise ValueError(f'The embedding is {embeddings.shape[-1]} wide, but the model {shape[-1]}. '
                     'Take the embedding of the same model.')


def _check_shape(source: str, prompt: Array, shape: Sequence[int]) -> None:
  if tuple(prompt.shape) == tuple(shape):
    return
  length, width = shape
  advice = (f'Set PROMPT_LENGTH={prompt.shape[0]}, or choose another.'
            if prompt.ndim == 2 and prompt.shape[1] == width else 'Choose one that was trained for this model.')
  raise ValueError(f'{source} holds {tuple(prompt.shape)}, but the run asks for {length} vectors of width {width}. '
                   f'{advice}')
