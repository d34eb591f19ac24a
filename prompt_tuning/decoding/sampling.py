"""Sampling with temperature, top-k or top-p, and greedy decoding.

  p(token) = softmax(logits / temperature), cut to the k most likely tokens, or to the smallest set of most likely
  tokens whose probabilities reach topp (Holtzman et al. 2019, The Curious Case of Neural Text Degeneration).

The noise of a token is a function of (key, row, decode, index), so a row's sample does not depend on the rest of the
batch or on when other rows end.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from prompt_tuning.decoding.cache import Cache, Step, check_cache, is_end, run_step
from prompt_tuning.types import Array

_COLDEST = 1e-4  # T5X treats temperatures up to this as zero
_CUT = -1.0e7  # the logit of a token excluded by top-k or top-p
_BITS_OF_ONE = 0x3F800000  # 1.0 as the bit pattern of a float32

# (logits [B, N, V], index) -> the tokens [B, N] to continue with and their log probabilities [B, N]
Choose = Callable[[Array, Array], tuple[Array, Array]]


def temperature_sample(
  step: Step,
  cache: Cache,
  key: Array | None,
  *,
  batch_size: int,
  max_length: int,
  end_ids: tuple[int, ...],
  temperature: float = 1.0,
  topk: int = 0,
  topp: float = 0.0,
  num_decodes: int = 1,
  start_id: int = 0,
  pad_id: int = 0,
  row_ids: Array | None = None,
  active: Array | None = None,
) -> tuple[Array, Array]:
  """Returns N sampled sequences of each row, most likely last, and their scores.

  Args:
    step: (ids [B, N], index, cache) -> (logits [B, N, V], cache).
    cache: leaves [L, B, N, ...].
    key: random key of the noise; may be None at temperature 0.
    batch_size: B.
    max_length: S, the maximum number of tokens of a sequence, including EOS.
    end_ids: the tokens that end a sequence.
    temperature: at 1e-4 or less, the most likely token is taken.
    topk: draw among this many most likely tokens; 0 means all.
    topp: draw among the most likely tokens that together reach this probability; 0 means all. Not with topk.
    num_decodes: N, the samples per row.
    start_id: the first token that the decoder reads.
    pad_id: fills a sequence after EOS.
    row_ids: [B] numbers that make the noise of rows differ, 0..B-1 if absent. Pass a dataset's example numbers for
      samples that do not depend on batching.
    active: [B] booleans, the rows to decode; all if absent. Other rows return empty and do not delay decoding.

  Returns:
    tokens [B, N, S] and scores [B, N] in increasing order. A score is the log probability of the sequence under the
    distribution it was drawn from, as in T5X, so it is 0 at temperature 0 and with topk=1.
  """
  _check(key, temperature, topk, topp)
  check_cache(cache, batch_size, num_decodes)
  if temperature <= _COLDEST:
    choose = _likeliest
  else:
    row_ids = jnp.arange(batch_size) if row_ids is None else jnp.asarray(row_ids)
    choose = _sampler(key, row_ids, num_decodes, temperature, topk, topp)
  ended = jnp.zeros(batch_size, bool) if active is None else ~jnp.asarray(active)
  ended = jnp.broadcast_to(ended[:, None], (batch_size, num_decodes))
  tokens, scores = _decode(step, cache, choose, ended, max_length, end_ids, start_id, pad_id)
  order = jnp.argsort(scores, axis=1)
  return jnp.take_along_axis(tokens, order[:, :, None], axis=1), jnp.take_along_axis(scores, order, axis=1)


def greedy(
  step: Step,
  cache: Cache,
  *,
  batch_size: int,
  max_length: int,
  end_ids: tuple[int, ...],
  start_id: int = 0,
  pad_id: int = 0,
  active: Array | None = None,
) -> tuple[Array, Array]:
  """Returns the most likely token at every step of each row, [B, 1, S], and scores [B, 1], which are 0 as in T5X."""
  return temperature_sample(
    step, cache, None, batch_size=batch_size, max_length=max_length, end_ids=end_ids, temperature=0.0,
    start_id=start_id, pad_id=pad_id, active=active)


def _decode(
  step: Step,
  cache: Cache,
  choose: Choose,
  ended: Array,
  max_length: int,
  end_ids: tuple[int, ...],
  start_id: int,
  pad_id: int,
) -> tuple[Array, Array]:
  """Returns tokens [B, N, S] and log probabilities [B, N] of sequences grown by `choose`, except `ended` [B, N]."""

  def unfinished(state: tuple[Any, ...]) -> Array:
    index, _, _, _, ended, _ = state
    return (index < max_length) & ~jnp.all(ended)

  def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
    index, ids, tokens, log_probs, ended, cache = state
    logits, cache = run_step(step, ids, index, cache)
    ids, added = choose(logits, index)
    ids = jnp.where(ended, pad_id, ids)
    log_probs = jnp.where(ended, log_probs, log_probs + added)
    return index + 1, ids, tokens.at[:, :, index].set(ids), log_probs, ended | is_end(ids, end_ids), cache

  ids = jnp.full(ended.shape, start_id, jnp.int32)
  tokens = jnp.full((*ended.shape, max_length), pad_id, jnp.int32)
  state = (jnp.int32(0), ids, tokens, jnp.zeros(ended.shape, jnp.float32), ended, cache)
  _, _, tokens, log_probs, _, _ = lax.while_loop(unfinished, advance, state)
  return tokens, log_probs


def _likeliest(logits: Array, index: Array) -> tuple[Array, Array]:
  """Returns the most likely tokens, with log probability 0: at temperature 0 they are certain."""
  del index
  return jnp.argmax(logits, axis=-1).astype(jnp.int32), jnp.zeros(logits.shape[:2], jnp.float32)


def _sampler(key: Array, row_ids: Array, num_decodes: int, temperature: float, topk: int, topp: float) -> Choose:
  """Returns a function that draws one token for every decode."""

  def draw(row: Array, decode: Array, index: Array, logits: Array) -> Array:
    noise = key
    for number in (row, decode, index):
      noise = jax.random.fold_in(noise, number)
    return jax.random.categorical(noise, logits).astype(jnp.int32)

  over_decodes = jax.vmap(draw, in_axes=(None, 0, None, 0))
  over_rows = jax.vmap(over_decodes, in_axes=(0, None, None, 0))

  def choose(logits: Array, index: Array) -> tuple[Array, Array]:
    logits = logits / temperature
    if topk:
      logits = keep_topk(logits, topk)
    if topp:
      logits = keep_topp(logits, topp)
    ids = over_rows(row_ids, jnp.arange(num_decodes), index, logits)
    log_probs = jax.nn.log_softmax(logits)
    return ids, jnp.take_along_axis(log_probs, ids[:, :, None], axis=-1)[:, :, 0]

  return choose


def keep_topk(logits: Array, count: int) -> Array:
  """Returns logits [..., V] with all but the `count` largest cut; ties with the smallest kept logit are kept too."""
  smallest = lax.top_k(logits, min(count, logits.shape[-1]))[0][..., -1:]
  return jnp.where(logits >= smallest, logits, _CUT)


def keep_topp(logits: Array, mass: float) -> Array:
  """Returns logits [..., V] cut to the smallest set of most likely tokens whose probabilities reach `mass`.

  The smallest kept probability is found by bisection over the bit patterns of [0, 1], which sort like the numbers.
  This is exact after 30 sums; sorting 32 rows of 250,000 tokens takes 20 times as long on a CPU.
  """
  probabilities = jax.nn.softmax(logits)

  def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = bounds
    middle = low + (high - low) // 2
    reached = jnp.sum(probabilities, axis=-1, keepdims=True, where=probabilities >= _from_bits(middle)) >= mass
    return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

  low = jnp.zeros((*logits.shape[:-1], 1), jnp.int32)  # probabilities from here up sum to at least `mass`
  high = jnp.full_like(low, _BITS_OF_ONE + 1)  # there are none from here up
  least, _ = lax.fori_loop(0, 30, halve, (low, high))
  return jnp.where(probabilities >= _from_bits(least), logits, _CUT)


def _from_bits(bits: Array) -> Array:
  """Returns the float32 numbers of int32 bit patterns."""
  return lax.bitcast_convert_type(bits, jnp.float32)


def _check(key: Array | None, temperature: float, topk: int, topp: float) -> None:
  """Raises ValueError for settings that are contradictory or out of range."""
  if topk and topp:
    raise ValueError(f'topk={topk} and topp={topp} cannot be used together. Set one of them to 0.')
  if topk < 0 or not 0 <= topp <= 1 or temperature < 0:
    raise ValueError(
      f'Sampling got temperature={temperature}, topk={topk} and topp={topp}. '
      'Use a temperature and a topk of 0 or more, and a topp from 0 to 1.')
  if key is None and temperature > _COLDEST:
    raise ValueError(f'Sampling with temperature={temperature} needs a key. Pass a key, or use temperature=0.')
