"""Sampling with temperature, top-k or top-p, and greedy decoding, as functions of a step with T5X's settings.

The noise of a token is a function of (key, row, decode, index), so a row's sample does not depend on the rest of the
batch or on when other rows end.
"""

import jax
import jax.numpy as jnp

from prompt_tuning.decoding import sequences
from prompt_tuning.decoding.cache import Cache, Step, row_keys
from prompt_tuning.decoding.choose import Choose, Greedy, Sampling
from prompt_tuning.types import Array


def temperature_sample(
  step: Step,
  cache: Cache,
  key: Array | None,
  *,
  batch_size: int,
  temperature: float = 1.0,
  topk: int = 0,
  topp: float = 0.0,
  num_decodes: int = 1,
  row_ids: Array | None = None,
  **settings: object,
) -> tuple[Array, Array]:
  """Returns N sampled sequences of each row, most likely last, and their scores.

  Args:
    step: (ids [B, N], index, cache) -> (logits [B, N, V], cache).
    cache: leaves [L, B, N, ...].
    key: random key of the noise; may be None at temperature 0.
    batch_size: B.
    temperature: see `Sampling`.
    topk: likewise.
    topp: likewise.
    num_decodes: N, the samples per row.
    row_ids: [B] numbers that make the noise of rows differ, 0..B-1 if absent. Pass a dataset's example numbers for
      samples that do not depend on batching.
    **settings: see `sequences.begin`.

  Returns:
    tokens [B, N, S] and scores [B, N] in increasing order. A score is the log probability of the sequence under the
    distribution it was drawn from, as in T5X, so it is 0 at temperature 0 and with topk=1.
  """
  choose = Sampling(temperature, topk, topp, num_decodes=num_decodes)
  if key is None:
    if temperature > 1e-4:
      raise ValueError(f'Sampling with temperature={temperature} needs a key. Pass a key, or use temperature=0.')
    key, choose = jax.random.key(0), Sampling(0.0, num_decodes=num_decodes)
  rows = jnp.arange(batch_size) if row_ids is None else jnp.asarray(row_ids)
  return sampled(step, cache, choose, row_keys(key, rows), **settings)


def greedy(step: Step, cache: Cache, *, batch_size: int, **settings: object) -> tuple[Array, Array]:
  """Returns the most likely token at every step of each row, [B, 1, S], and scores [B, 1], which are 0 as in T5X."""
  return sampled(step, cache, Greedy(), row_keys(jax.random.key(0), jnp.arange(batch_size)), **settings)


def sampled(step: Step, cache: Cache, choose: Choose, keys: Array, *, pad_id: int = 0,
            **settings: object) -> tuple[Array, Array]:
  """Returns tokens [B, N, S] and scores [B, N] of sequences that `choose` grows, most likely last.

  Args:
    step: as in `temperature_sample`.
    cache: likewise.
    choose: chooses the tokens.
    keys: [B] random keys.
    pad_id: fills a sequence after its end.
    **settings: see `sequences.begin`.
  """
  state = sequences.begin(cache, keys, num_decodes=choose.num_decodes, pad_id=pad_id, **settings)
  state = sequences.grow(step, state, choose, state.tokens.shape[2], pad_id=pad_id)
  order = jnp.argsort(state.scores, axis=1)
  return (jnp.take_along_axis(state.tokens, order[:, :, None], axis=1),
          jnp.take_along_axis(state.scores, order, axis=1))
