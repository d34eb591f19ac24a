"""Prompt tuning (Lester, Al-Rfou and Constant 2021): P trained vectors among a frozen model's embedded input.

  logits = model([p_1; …; p_P; embed(x)]),    ∂loss/∂p only.

Initialisers are functions `(key, shape) -> array`, as Flax's own are; `shape` is (P, D). Not for teaching a model
what it has never seen: a prompt selects among what the frozen model can do.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning import layouts
from prompt_tuning.conditioning import Conditioning, Frozen, StackConditioning, Visibility
from prompt_tuning.types import Array, Params

Initializer = Callable[..., Array]
# Stack that a prompt belongs to -> the name of its tensor, which files of earlier tools use.
PROMPTS = {stack: f'{stack}/prompt/prompt/prompt' for stack in ('encoder', 'decoder')}
PATH = PROMPTS['encoder']


class Encoder(Protocol):
  """A vocabulary: turns text into token ids."""

  def encode(self, text: str) -> Sequence[int]: ...


class Prompt(nn.Module):
  """The prompt's vectors.

  Attributes:
    length: P, how many vectors.
    prompt_init: first values, a function `(key, shape) -> array`.
    dtype: type of the vectors that the model is handed; they are trained in float32.
  """

  length: int
  prompt_init: Initializer = nn.initializers.uniform(0.5)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, width: int) -> Array:
    """Returns [P, D] for the model's width D."""
    return self.param('prompt', self.prompt_init, (self.length, width)).astype(self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Wayward:
  """Keeps a prompt near a text (Khashabi et al. 2022): γ Σ ‖p_i − e_i‖² is added to each step's loss.

  Attributes:
    vectors: [P, D], the text's embedded tokens.
    gamma: γ, above 0.
  """

  vectors: Array
  gamma: float

  def __post_init__(self) -> None:
    if self.gamma <= 0:
      raise ValueError(f'The weight gamma of the distance to a text is {self.gamma}. Give a number above 0, or no '
                       'text.')

  @classmethod
  def of_text(cls, embeddings: Array, vocab: Encoder, text: str, gamma: float) -> 'Wayward':
    """Keeps a prompt near a text of as many tokens, given the embedding [V, D] and what encodes the text."""
    return cls(_embed(embeddings, vocab, text), gamma)


@dataclasses.dataclass(frozen=True)
class PromptTuning:
  """The method: a prompt among the input, of the encoder, or of a model that has a decoder alone.

  Attributes:
    prompt: the vectors.
    placement: where they stand, a function of `layouts`.
    visibility: what they see.
    cached: in training, keys and values of the text before the prompt are computed once, without dropout, and kept: for
      a prompt behind the input (`layouts.after_eos`) of a decoder-only model.
    wayward: a text that the prompt stays near.
  """

  prompt: Prompt
  placement: layouts.Placement = layouts.before
  visibility: Visibility = Visibility()
  cached: bool = False
  wayward: Wayward | None = None

  def layout(self) -> layouts.Layout:
    """Returns a layout with a place for every vector."""
    return layouts.Layout(self.prompt.length, self.placement, alone=not self.visibility.input, cached=self.cached)

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: `encoder/prompt/prompt/prompt` [P, D], or the same in the decoder.

    Raises:
      ValueError: the initialiser or the text does not fit the model and the length.
    """
    wanted = (self.prompt.length, model.width)
    if self.wayward is not None and self.wayward.vectors.shape != wanted:
      raise ValueError(f'The text that the prompt stays near is embedded as {tuple(self.wayward.vectors.shape)}, '
                       f'wanted {wanted}: a vector for each of the prompt. Set PROMPT_LENGTH to its number of tokens.')
    return {model.prompted: {'prompt': {'prompt': self.prompt.init(key, model.width)['params']}}}

  def penalty(self, trained: Params) -> Array | None:
    """Returns what is added to a step's loss: the distance to a text; None without one."""
    if self.wayward is None:
      return None
    (prompt,) = jax.tree.leaves(trained)
    return self.wayward.gamma * jnp.sum((prompt - jnp.asarray(self.wayward.vectors, prompt.dtype))**2)

  def condition(self, trained: Params) -> Conditioning:
    """Hands the one prompt over as [1, P, D]."""
    (stack, tree), = trained.items()
    params = tree['prompt']['prompt']
    vectors = self.prompt.apply({'params': params}, params['prompt'].shape[-1])
    return Conditioning(**{stack: StackConditioning(prompt=vectors[None], visibility=self.visibility)})


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
    means = [np.mean(_embed(embeddings, vocab, text), axis=0) for text in texts]
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
    return _fill(key, _embed(embeddings, vocab, text)[:shape[0]], embeddings, shape, initializer, dtype)

  return initialise


def _embed(embeddings: Array, vocab: Encoder, text: str) -> np.ndarray:
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
