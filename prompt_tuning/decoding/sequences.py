"""Sequences that grow token by token, all at once, as a value that can be handed from one compiled call to the next."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from prompt_tuning.decoding.cache import Cache, Step, check_cache, is_end, row_keys, run_step
from prompt_tuning.decoding.choose import Choose
from prompt_tuning.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenLog:
  """The model's own log-probabilities of generated tokens, whatever distribution they were drawn from.

  Attributes:
    log_probs: [B, N, S].
    top_ids: [B, N, S, K] the likeliest tokens at each place, the likeliest first.
    top_log_probs: [B, N, S, K].
  """

  log_probs: Array
  top_ids: Array
  top_log_probs: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sequences:
  """N sequences for each of B rows, and all that their next token depends on.

  Attributes:
    index: [] the number of tokens generated so far.
    ids: [B, N] the newest tokens, which the next step reads.
    tokens: [B, N, S], padded.
    scores: [B, N] log-probabilities under the distributions that the tokens were drawn from.
    ended: [B, N] sequences that grow no more.
    keys: [B, N] random keys; the noise of a token depends on its sequence's key and on its index alone.
    budgets: [B] the most tokens of a row's sequences, end token included.
    end_ids: [B, E] the tokens that end a row's sequences; -1 is none.
    log: the model's log-probabilities, or None.
    cache: the model's, leaves [L, B, N, ...].
  """

  index: Array
  ids: Array
  tokens: Array
  scores: Array
  ended: Array
  keys: Array
  budgets: Array
  end_ids: Array
  log: TokenLog | None
  cache: Any


def begin(cache: Cache, keys: Array, *, num_decodes: int, max_length: int, end_ids: Any, start_id: int = 0,
          pad_id: int = 0, active: Array | None = None, budgets: Array | None = None, top: int = 0) -> Sequences:
  """Returns the sequences before their first token.

  Args:
    cache: leaves [L, B, N, ...].
    keys: [B] random keys of the rows.
    num_decodes: N.
    max_length: S.
    end_ids: see `Sequences`; also [E], for all rows.
    start_id: the first token that the decoder reads.
    pad_id: fills a sequence after its end.
    active: [B] booleans, the rows to decode; all if absent. Other rows return empty and do not delay decoding.
    budgets: see `Sequences`; S if absent.
    top: K of the log; 0 keeps none.
  """
  rows = keys.shape[0]
  check_cache(cache, rows, num_decodes)
  shape = (rows, num_decodes)
  keys = jax.vmap(lambda key: row_keys(key, jnp.arange(num_decodes)))(keys)
  ends = jnp.asarray(end_ids, jnp.int32)
  log = None
  if top:
    many = (*shape, max_length, top)
    log = TokenLog(jnp.zeros(many[:3]), jnp.zeros(many, jnp.int32), jnp.zeros(many))
  return Sequences(
    index=jnp.int32(0),
    ids=jnp.full(shape, start_id, jnp.int32),
    tokens=jnp.full((*shape, max_length), pad_id, jnp.int32),
    scores=jnp.zeros(shape, jnp.float32),
    ended=jnp.broadcast_to((jnp.zeros(rows, bool) if active is None else ~jnp.asarray(active))[:, None], shape),
    keys=keys,
    budgets=jnp.full(rows, max_length) if budgets is None else jnp.minimum(budgets, max_length),
    end_ids=jnp.broadcast_to(ends, (rows, ends.shape[-1])),
    log=log,
    cache=cache,
  )


def grow(step: Step, state: Sequences, choose: Choose, until: Array | int, *, pad_id: int = 0) -> Sequences:
  """Generates tokens until the index `until`, or until all sequences have ended."""
  until = jnp.minimum(until, state.tokens.shape[2])

  def unfinished(state: Sequences) -> Array:
    return (state.index < until) & ~jnp.all(state.ended)

  def advance(state: Sequences) -> Sequences:
    logits, cache = run_step(step, state.ids, state.index, state.cache)
    keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, state.index)))(state.keys)
    ids, added = choose(logits, keys)
    ids = jnp.where(state.ended, pad_id, ids)
    index = state.index + 1
    return dataclasses.replace(
      state, index=index, ids=ids, cache=cache,
      tokens=state.tokens.at[:, :, state.index].set(ids),
      scores=jnp.where(state.ended, state.scores, state.scores + added),
      ended=state.ended | is_end(ids, state.end_ids) | (index >= state.budgets[:, None]),
      log=None if state.log is None else _logged(state.log, logits, ids, state.index))

  return lax.while_loop(unfinished, advance, state)


def _logged(log: TokenLog, logits: Array, ids: Array, index: Array) -> TokenLog:
  log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  top, top_ids = lax.top_k(logits, log.top_ids.shape[-1])
  own = jnp.take_along_axis(logits, ids[..., None], axis=-1)
  write = lambda array, new: array.at[:, :, index].set(new)
  return TokenLog(write(log.log_probs, (own - log_z)[..., 0]), write(log.top_ids, top_ids),
                  write(log.top_log_probs, top - log_z))
