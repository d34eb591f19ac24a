"""A decoder small enough to enumerate: its next token depends on the whole sequence so far, through its cache."""

import itertools

import jax.numpy as jnp
import numpy as np

EOS = 1


class ToyDecoder:
  """h' = tanh(h A + E[token]), logits = h' W, with an initial h for each row.

  Attributes:
    start: [B, D] the rows' initial states.
  """

  def __init__(self, rows: int, vocabulary: int, width: int = 5, seed: int = 0, eos_logit: float = 0.0):
    random = np.random.default_rng(seed)
    self.start = random.normal(size=(rows, width))
    self._mix = random.normal(size=(width, width)) / width**0.5
    self._embedding = random.normal(size=(vocabulary, width)) * 2
    self._out = random.normal(size=(width, vocabulary))
    self._bias = np.where(np.arange(vocabulary) == EOS, eos_logit, 0.0)

  def cache(self, decodes: int, rows=slice(None)) -> dict:
    """Returns the cache [1, B, N, D] of the rows before the first token."""
    start = jnp.asarray(self.start[rows], jnp.float32)
    return {'state': jnp.repeat(start[None, :, None], decodes, axis=2)}

  def step(self, ids, index, cache):
    """Returns logits [B, N, V] and the cache, as the decoders expect."""
    del index
    state = jnp.tanh(cache['state'][0] @ self._mix + jnp.asarray(self._embedding)[ids])
    return state @ self._out + self._bias, {'state': state[None]}

  def log_probs(self, row: int, tokens) -> np.ndarray:
    """Returns the log probability [S] of each token of a sequence that follows the start token 0."""
    state, found = self.start[row], []
    for before, token in zip([0, *tokens], tokens, strict=False):
      state = np.tanh(state @ self._mix + self._embedding[before])
      logits = state @ self._out + self._bias
      found.append(logits[token] - np.log(np.exp(logits).sum()))
    return np.array(found)

  def sequences(self, row: int, length: int) -> list[tuple[float, tuple[int, ...]]]:
    """Returns the log probability and tokens of all sequences that end in EOS or have `length` tokens."""
    ordinary = [token for token in range(self._out.shape[1]) if token != EOS]
    found = [(*start, EOS) for n in range(length) for start in itertools.product(ordinary, repeat=n)]
    found += itertools.product(ordinary, repeat=length)
    return [(self.log_probs(row, tokens).sum(), tokens) for tokens in found]
