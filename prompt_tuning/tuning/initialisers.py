"""Initialisers of a prompt: functions `(key, shape) -> array`, like Flax's initialisers; `shape` is (P, D)."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning.rows.token_ids import require_ids
from prompt_tuning.types import Array

Initializer = Callable[..., Array]


class Encoder(Protocol):
  """A vocabulary, which turns text into token ids."""

  def encode(self, text: str) -> Sequence[int]: ...


def from_array(prompt: Array, source: str = 'The given array') -> Initializer:
  """Initialises with given vectors [P, D].

  Args:
    prompt: the vectors.
    source: where they come from, for messages.

  Raises:
    ValueError: (when called) the requested shape differs.
  """

  def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    del key
    _check_shape(source, prompt, shape)
    return jnp.array(prompt, dtype)  # a copy: training donates the memory of the initial values

  return initialise


def from_sample_of_embeddings(embeddings: Array, population_size: int | None = 5000) -> Initializer:
  """Initialises with random rows of the embedding, drawn without replacement unless P exceeds the number of rows.

  Args:
    embeddings: [V, D].
    population_size: draw from this many first rows (SentencePiece sorts by frequency); None means all.
  """
  population = len(embeddings) if population_size is None else population_size
  if not 0 < population <= len(embeddings):
    raise ValueError(f'population_size={population} is out of range: the embedding has {len(embeddings)} rows. '
                     f'Use 1 to {len(embeddings)}.')

  def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    _check_width(embeddings, shape)
    rows = jax.random.choice(key, population, (shape[0],), replace=shape[0] > population)
    return jnp.asarray(embeddings)[rows].astype(dtype)

  return initialise


def from_embedded_list(embeddings: Array, vocab: Encoder, texts: Sequence[str],
                       initializer: Initializer = nn.initializers.uniform(0.5)) -> Initializer:
  """Initialises one vector for each text, such as a class label, with the mean of its tokens' embeddings.

  Args:
    embeddings: [V, D].
    vocab: encodes the texts, without an end token.
    texts: at most P texts.
    initializer: initialises the remaining rows.

  Raises:
    ValueError: (when called) there are no texts, more texts than vectors, or a text without tokens.
  """

  def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    if not texts:
      raise ValueError('There are no texts to initialise the prompt with. Give at least one, or choose another '
                       'initialiser.')
    if len(texts) > shape[0]:
      raise ValueError(f'{len(texts)} texts cannot initialise a prompt of {shape[0]} vectors. '
                       f'Give length={len(texts)} or more, or fewer texts.')
    means = [np.mean(embed(embeddings, vocab, text), axis=0) for text in texts]
    return _fill(key, np.array(means), embeddings, shape, initializer, dtype)

  return initialise


def from_embedded_string(embeddings: Array, vocab: Encoder, text: str,
                         initializer: Initializer = nn.initializers.uniform(0.5)) -> Initializer:
  """Initialises with the embeddings of a text's tokens, one vector per token, truncated to P.

  Args:
    embeddings: [V, D].
    vocab: encodes the text, without an end token.
    text: a prompt in words.
    initializer: initialises the rows after the text.
  """

  def initialise(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    return _fill(key, embed(embeddings, vocab, text)[:shape[0]], embeddings, shape, initializer, dtype)

  return initialise


def embed(embeddings: Array, vocab: Encoder, text: str) -> np.ndarray:
  ids = list(vocab.encode(text))
  if not ids:
    raise ValueError(f'The text {text!r} has no tokens in this vocabulary. Give another text.')
  require_ids(ids, len(embeddings), f'The text {text!r}')
  return np.asarray(embeddings)[np.array(ids)]


def _fill(key: Array, rows: np.ndarray, embeddings: Array, shape: Sequence[int], initializer: Initializer,
          dtype: Any) -> Array:
  _check_width(embeddings, shape)
  rest = initializer(key, tuple(shape), dtype)
  return jnp.concatenate([jnp.asarray(rows, dtype), rest[len(rows):]])


def _check_width(embeddings: Array, shape: Sequence[int]) -> None:
  if embeddings.shape[-1] != shape[-1]:
    raise ValueError(f'The embedding has width {embeddings.shape[-1]}, but the model has width {shape[-1]}. '
                     'Use the embedding of the same model.')


def _check_shape(source: str, prompt: Array, shape: Sequence[int]) -> None:
  if tuple(prompt.shape) == tuple(shape):
    return
  length, width = shape
  advice = (f'Give length={prompt.shape[0]}, or choose another.'
            if prompt.ndim == 2 and prompt.shape[1] == width else 'Choose one that was trained for this model.')
  raise ValueError(f'{source} has shape {tuple(prompt.shape)}, but the run needs {length} vectors of width {width}. '
                   f'{advice}')
