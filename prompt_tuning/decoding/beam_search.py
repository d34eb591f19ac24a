"""Beam search with T5X's brevity penalty, or with the penalty and stopping rule of transformers.

Both keep N live beams, consider the best 2N continuations at every step ((1 + E)N with E > 1 end tokens, so that N can
stay live) and collect the best N finished sequences:

                     T5X                               transformers
  score              logprob / ((5 + length)/6)^alpha  logprob / length^alpha
  may finish         all 2N continuations, by EOS      the best N of the 2N, by EOS or by reaching max_length
  a row stops when   it has N finished beams and the upper bound on the score of its live beams is not better than
                     the worst of them, or, with early_stopping=True, as soon as it has N
  length in bound    max_length + 1                    the current length; with 'never' and alpha > 0, max_length
  nothing finished   the live beams, by logprob        cannot happen

With a temperature T, the 2N continuations are drawn without replacement from softmax(logprob / T) over all
continuations of all beams, as transformers does with do_sample; 'the best N' are still selected by logprob. The draw
takes the largest values of logprob / T plus Gumbel noise (Kool et al. 2019); the noise depends only on (key, row,
index). Scores do not change; transformers divides them by T.

A length counts the generated tokens, including EOS. With one beam this differs from greedy decoding: the second-best
continuation finishes the sequence if it is EOS.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from prompt_tuning.decoding.cache import Cache, Step, check_cache, is_end, reorder, row_keys, run_step
from prompt_tuning.types import Array

UNFILLED = -1.0e7  # the score of an empty beam


def beam_search(
  step: Step,
  cache: Cache,
  key: Array | None = None,
  *,
  batch_size: int,
  max_length: int,
  end_ids: Any,
  num_decodes: int = 1,
  alpha: float = 0.6,
  start_id: int = 0,
  pad_id: int = 0,
  penalty: Literal['t5x', 'transformers'] = 't5x',
  early_stopping: bool | Literal['never'] = False,
  temperature: float = 0.0,
  row_ids: Array | None = None,
  active: Array | None = None,
) -> tuple[Array, Array]:
  """Returns the N best sequences of each row, best last, and their scores.

  A row's result does not depend on the other rows.

  Args:
    step: (ids [B, N], index, cache) -> (logits [B, N, V], cache).
    cache: leaves [L, B, N, ...].
    key: random key of the noise, or [B] keys of the rows; may be None at temperature 0.
    batch_size: B.
    max_length: S, the maximum number of tokens of a sequence, including EOS.
    end_ids: the tokens that end a sequence: [E], or [B, E] for each row; -1 is none.
    num_decodes: N, the number of beams.
    alpha: strength of the length penalty; larger favours longer sequences.
    start_id: the first token that the decoder reads.
    pad_id: fills a sequence after EOS.
    penalty: the form of score and stopping rule, see the module docstring.
    early_stopping: when the transformers form stops: at N finished sequences (True), when an improvement is unlikely
      (False) or when it is impossible ('never').
    temperature: temperature of the draw of continuations; 0 takes the best ones.
    row_ids: [B] numbers that make the noise of rows differ, 0..B-1 if absent, see `temperature_sample`.
    active: [B] booleans, the rows to decode; all if absent. Other rows return unfilled and do not delay the search.

  Returns:
    tokens [B, N, S] and scores [B, N] in increasing order. If fewer than N sequences finished, the first ones are all
    `pad_id` with the score UNFILLED.
  """
  rules = _rules(penalty, alpha, max_length, early_stopping)
  check_cache(cache, batch_size, num_decodes)
  ends = jnp.asarray(end_ids)
  ends = jnp.broadcast_to(ends, (batch_size, ends.shape[-1]))
  count = max(2, 1 + ends.shape[1]) * num_decodes
  if temperature < 0 or (temperature and key is None):
    raise ValueError(f'Beam search got temperature={temperature} and {"no" if key is None else "a"} key. '
                     'Use a temperature above 0 with a key, or 0 for the best continuations.')
  keys = key if temperature and key.ndim else None
  if temperature and not key.ndim:
    rows = jnp.arange(batch_size) if row_ids is None else jnp.asarray(row_ids)
    keys = row_keys(key, rows)

  def unfinished(state: _State) -> Array:
    return (state.index < max_length) & ~jnp.all(state.done)

  def advance(state: _State) -> _State:
    logits, cache = run_step(step, state.ids, state.index, state.cache)
    log_probs = state.log_probs[:, :, None] + jax.nn.log_softmax(logits)
    if temperature:
      drawn = log_probs / temperature + _noise(keys, state.index, logits.shape[1:])
      log_probs, parents, ids = _continuations(log_probs, count, drawn)
    else:
      log_probs, parents, ids = _continuations(log_probs, count)  # [B, C] each
    tokens = _take(state.tokens, parents).at[:, :, state.index].set(ids)
    length = state.index + 1
    ended = is_end(ids, ends) | rules.must_end(length)

    log_probs_alive = jnp.where(ended, log_probs + UNFILLED, log_probs)
    alive_log_probs, alive = lax.top_k(log_probs_alive, num_decodes)

    counts = ended & rules.eligible(count, num_decodes) & (log_probs > UNFILLED) & ~state.done[:, None]
    scores = jnp.where(counts, log_probs / rules.penalty(length), UNFILLED)
    finished_scores, best = lax.top_k(jnp.concatenate([state.finished_scores, scores], axis=1), num_decodes)
    finished_tokens = _take(jnp.concatenate([state.finished_tokens, tokens], axis=1), best)

    bound = alive_log_probs[:, 0] / rules.penalty(rules.hoped_length(length))
    full = finished_scores[:, -1] > UNFILLED
    return _State(
      index=length,
      ids=_take(ids, alive),
      tokens=_take(tokens, alive),
      log_probs=alive_log_probs,
      finished_tokens=finished_tokens,
      finished_scores=finished_scores,
      done=state.done | (full & (rules.stops_when_full | (finished_scores[:, -1] >= bound))),
      cache=reorder(cache, _take(parents, alive)),
    )

  active = jnp.ones(batch_size, bool) if active is None else jnp.asarray(active)
  state = _first_state(cache, active, num_decodes, max_length, start_id, pad_id)
  return _best_last(lax.while_loop(unfinished, advance, state), pad_id)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
  """The state of the search. Beams are in decreasing order of log probability or score.

  Attributes:
    index: the number of tokens of the live beams.
    ids: [B, N] the live beams' newest tokens, which the next step reads.
    tokens: [B, N, S] the live beams.
    log_probs: [B, N] log probabilities of the live beams; UNFILLED or less for a beam that is not live.
    finished_tokens: [B, N, S] the best finished sequences.
    finished_scores: [B, N] their scores; UNFILLED if there is none.
    done: [B] rows whose finished sequences are final.
    cache: the model's cache, in the order of the live beams.
  """

  index: Array
  ids: Array
  tokens: Array
  log_probs: Array
  finished_tokens: Array
  finished_scores: Array
  done: Array
  cache: Any


@dataclasses.dataclass(frozen=True)
class _T5X:
  """T5X's score and stopping rule."""

  alpha: float
  max_length: int
  stops_when_full: bool = False

  def penalty(self, length: Array | int) -> Array:
    return ((5.0 + length) / 6.0) ** self.alpha

  def must_end(self, length: Array) -> Array | bool:
    del length
    return False

  def eligible(self, count: int, num_decodes: int) -> Array:
    del num_decodes
    return jnp.ones(count, bool)

  def hoped_length(self, length: Array) -> Array | int:
    del length
    return self.max_length + 1  # T5X counts the start token here, and only here


@dataclasses.dataclass(frozen=True)
class _Transformers:
  """The score and stopping rule of transformers."""

  alpha: float
  max_length: int
  early_stopping: bool | str

  @property
  def stops_when_full(self) -> bool:
    return self.early_stopping is True

  def penalty(self, length: Array | int) -> Array:
    return jnp.asarray(length, jnp.float32) ** self.alpha

  def must_end(self, length: Array) -> Array | bool:
    return length == self.max_length

  def eligible(self, count: int, num_decodes: int) -> Array:
    return jnp.arange(count) < num_decodes

  def hoped_length(self, length: Array) -> Array | int:
    return self.max_length if self.early_stopping == 'never' and self.alpha > 0 else length


def _rules(penalty: str, alpha: float, max_length: int, early_stopping: bool | str) -> _T5X | _Transformers:
  """Returns the rules of a form; raises ValueError for an unknown form."""
  if early_stopping not in (True, False, 'never'):
    raise ValueError(f"early_stopping={early_stopping!r} is not valid. Use True, False or 'never'.")
  if penalty == 'transformers':
    return _Transformers(alpha, max_length, early_stopping)
  if penalty != 't5x':
    raise ValueError(f"penalty={penalty!r} is not valid. Use 't5x' or 'transformers'.")
  if early_stopping:
    raise ValueError(
      f"early_stopping={early_stopping!r} has no effect with T5X's penalty, which has only one stopping rule. "
      "Leave early_stopping out, or use penalty='transformers'.")
  return _T5X(alpha, max_length)


def _first_state(
  cache: Cache, active: Array, num_decodes: int, max_length: int, start_id: int, pad_id: int) -> _State:
  """Returns a state with one empty live beam for each active row."""
  batch_size = len(active)
  padding = jnp.full((batch_size, num_decodes, max_length), pad_id, jnp.int32)
  unfilled = jnp.full((batch_size, num_decodes), UNFILLED, jnp.float32)
  return _State(
    index=jnp.int32(0),
    ids=jnp.full((batch_size, num_decodes), start_id, jnp.int32),
    tokens=padding,
    log_probs=unfilled.at[:, 0].set(jnp.where(active, 0.0, UNFILLED)),
    finished_tokens=padding,
    finished_scores=unfilled,
    done=~active,
    cache=cache,
  )


def _continuations(log_probs: Array, count: int, by: Array | None = None) -> tuple[Array, Array, Array]:
  """Returns C continuations of N beams: log probabilities in decreasing order, beams and tokens, [B, C] each.

  Args:
    log_probs: [B, N, V] of all continuations.
    count: C.
    by: [B, N, V] values by which the largest are selected; None means `log_probs`.
  """
  batch_size, _, vocabulary = log_probs.shape
  flat = lambda array: array.reshape(batch_size, -1)
  best, positions = lax.top_k(flat(log_probs if by is None else by), count)
  if by is not None:
    best, order = lax.top_k(_take(flat(log_probs), positions), count)
    positions = _take(positions, order)
  return best, positions // vocabulary, positions % vocabulary


def _noise(keys: Array, index: Array, shape: tuple[int, ...]) -> Array:
  """Returns Gumbel noise [B, *shape] for one step of each row."""
  return jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, index), shape))(keys)


def _take(beams: Array, order: Array) -> Array:
  """Returns the beams `order` [B, M] of each row of [B, N, ...]."""
  return jax.vmap(lambda row, chosen: row.at[chosen].get(mode='promise_in_bounds'))(beams, order)


def _best_last(state: _State, pad_id: int) -> tuple[Array, Array]:
  """Returns the finished sequences, or the live ones of rows without finished ones, in increasing order of score."""
  finished = state.finished_scores[:, :1] > UNFILLED  # [B, 1]
  scores = jnp.where(finished, state.finished_scores, jnp.maximum(state.log_probs, UNFILLED))
  tokens = jnp.where(finished[:, :, None], state.finished_tokens, state.tokens)
  tokens = jnp.where(scores[:, :, None] > UNFILLED, tokens, pad_id)
  return tokens[:, ::-1], scores[:, ::-1]
