"""The words that a prompt's vectors are nearest to (Lester, Al-Rfou and Constant 2021, section 7).

  similarity(p, e_v) = p · e_v / (‖p‖ ‖e_v‖),    e_v the embedding of token v.

They hint at what a prompt has learnt, and do not replace it: vectors between words have neighbours too.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning.checks import typed
from prompt_tuning.data.token_texts import TokenTexts
from prompt_tuning.models.row_prompts import collect_prompts
from prompt_tuning.names import require_number
from prompt_tuning.types import Array

_CHUNK = 8192  # tokens that are compared at once


@typed
def nearest_words(model: Any, prompt: Any, *, top: int = 5) -> list[list[tuple[str, float]]]:
  """Returns for each vector of a prompt the tokens of the model's vocabulary whose embeddings are nearest.

  The similarity is the cosine, -1 to 1, in float32 of the embedding as it is stored: Gemma's scale of embeddings does
  not change it, and learned positions have no part in it. A vector of zeros has similarity 0 to every token. Rows of
  the embedding beyond the vocabulary are left out; tokens that no text shows are written as in the vocabulary's file,
  parts of a character as their bytes. At most [P, 8192] similarities are kept at once, whatever the vocabulary's size.

  Args:
    model: the model, with a vocabulary; only its embedding [V, D] is read.
    prompt: an array [P, D], or the result of `load_prompt` or `load_trained`. Of layer prompts that are added to one
      another, the first layer's are compared.
    top: k, how many tokens for each vector.

  Returns:
    For each of P vectors k pairs of text and similarity, the nearest first; of equal ones, the smaller id first.

  Raises:
    ValueError: the prompt does not fit the model, or has no vectors among embedded tokens, as a prefix; or the model
      has no vocabulary or no embedding.
  """
  if 'token_embedder' not in model.params:
    raise ValueError(f'{model.path or "The model"} reads real vectors instead of tokens, so it has no embedding of '
                     'words that a prompt could be compared with.')
  if model.vocabulary is None:
    raise ValueError(f'{model.path or "The model"} has no vocabulary, so its tokens have no texts. Give '
                     'load_model(..., vocabulary=...).')
  embedding = model.embeddings()
  words = min(model.vocabulary.size, len(embedding))
  require_number('top', top, least=1, most=words, whole=True)
  if prompt is None:
    raise ValueError('prompt=None cannot be used: the frozen model has no vectors. Give the prompt of a run or a file.')
  _, conditioning = collect_prompts(prompt, 1, model)
  vectors = getattr(conditioning, model.prompted).prompt
  if vectors is None:
    held = ', '.join(conditioning.given()) or ', '.join(conditioning.parameters) or 'nothing'
    raise ValueError(f'The trained tensors are {held[:200]}: they have no vectors among embedded tokens, which alone '
                     'have nearest words. Give a prompt, or layer prompts of mode=add.')
  similarities, ids = _nearest(vectors[0], embedding, top=top, words=words, size=min(_CHUNK, words))
  text = TokenTexts(model.vocabulary).text_of
  return [[(text(token), similarity) for token, similarity in zip(*row, strict=True)]
          for row in zip(np.asarray(ids).tolist(), np.asarray(similarities).tolist(), strict=True)]


@functools.partial(jax.jit, static_argnames=('top', 'words', 'size'))
def _nearest(vectors: Array, embedding: Array, *, top: int, words: int, size: int) -> tuple[Array, Array]:
  """Returns the largest similarities [P, k] of vectors [P, D] to the first rows of [V, D], and their indices."""
  own = unit(vectors)

  def compared(chunk: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
    first = jnp.minimum(chunk * size, words - size)  # the last chunk overlaps the one before
    rows = unit(jax.lax.dynamic_slice_in_dim(embedding, first, size))
    ids = first + jnp.arange(size)
    found = jnp.where(ids >= chunk * size, jnp.matmul(own, rows.T, precision='highest'), -jnp.inf)
    found = jnp.concatenate([best[0], found], axis=1)
    values, places = jax.lax.top_k(found, top)
    known = jnp.concatenate([best[1], jnp.broadcast_to(ids, (len(own), size))], axis=1)
    return values, jnp.take_along_axis(known, places, axis=1)

  none = jnp.full((len(own), top), -jnp.inf), jnp.zeros((len(own), top), jnp.int32)
  return jax.lax.fori_loop(0, -(-words // size), compared, none)


def unit(vectors: Array) -> Array:
  """Returns vectors [N, D] of length 1 in float32; those of zeros stay."""
  vectors = vectors.astype(jnp.float32)
  largest = jnp.max(jnp.abs(vectors), axis=-1, keepdims=True)  # squares of very large or small values are no numbers
  vectors = vectors / jnp.where(largest > 0, largest, 1)
  return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1)
