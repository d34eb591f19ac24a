"""The gated delta rule (Yang, Kautz and Hatamizadeh 2025), and the short convolution before it.

  S_t = exp(g_t) S_{t-1} + k_t ⊗ β_t (v_t - (exp(g_t) S_{t-1})ᵀ k_t),    o_t = S_tᵀ q_t

A head's state S [K, V] is a memory of keys and values of a fixed size: what it holds of a key is replaced by the new
value at the rate β, and everything decays. `step` is one position of this recurrence, for decoding. `chunked` is many:
within a chunk of C positions, the corrections β (v - …) are the solution of a triangular system (the WY form of Yang et
al. 2024), so that only a scan over chunks remains. Both compute in float32.

Every segment of a row starts from the state that precedes the row, so packed texts do not see one another. Letters, in
addition to those of design.md: G groups of heads that share query and key, R heads in each, C positions in a chunk.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning.types import Array

CHUNK = 64
_EXACT = jax.lax.Precision.HIGHEST  # of float32: an accelerator would round factors to fewer bits


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spans:
  """Where the segments of rows begin.

  Attributes:
    tokens: [B, T], False for padding, which changes no state.
    runs: [B, T], 1 for the first segment of a row, and so on; 0 before it. Padding belongs to what precedes it.
    index: [B, T], the number of tokens of the same segment before each token.
  """

  tokens: Array
  runs: Array
  index: Array

  @classmethod
  def of(cls, segments: Array) -> 'Spans':
    """Returns the spans of rows [B, T], whose segments are not interrupted; 0 is padding."""
    tokens, places = segments > 0, jnp.arange(segments.shape[1])
    latest = jax.lax.cummax(jnp.where(tokens, places, -1), axis=1)  # the last token up to each position
    filled = jnp.where(latest >= 0, jnp.take_along_axis(segments, jnp.maximum(latest, 0), axis=1), 0)
    starts = filled != jnp.pad(filled, ((0, 0), (1, 0)))[:, :-1]
    first = jax.lax.cummax(jnp.where(starts, places, 0), axis=1)
    return cls(tokens, jnp.cumsum(starts, axis=1), places - first)


def spans_of(config: Any, segments: Array | None) -> Spans | None:
  """Returns the spans of rows whose segments are known, if a model has delta layers."""
  return None if segments is None or config.delta is None else Spans.of(segments)


def convolved(x: Array, weights: Array, tail: Array | None, spans: Spans | None) -> Array:
  """Returns the causal convolution [B, T, C] of each channel, in float32.

  Args:
    x: [B, T, C].
    weights: [C, W], that of the position itself last.
    tail: [B, W - 1, C], or [1, W - 1, C] for all, the inputs before each segment; None means zeros.
    spans: of the rows; None means one segment without padding.
  """
  weights, width = weights.astype(jnp.float32), weights.shape[1]
  found = x.astype(jnp.float32) * weights[:, -1]
  index = jnp.arange(x.shape[1])[None] if spans is None else spans.index
  for back in range(1, width):
    earlier = jnp.pad(x, ((0, 0), (back, 0), (0, 0)))[:, :x.shape[1]]
    if tail is not None or spans is not None:
      before = 0 if tail is None else _taken(tail, jnp.maximum(width - 1 - back + index, 0))
      earlier = jnp.where((index >= back)[..., None], earlier, before)
    found += earlier.astype(jnp.float32) * weights[:, -1 - back]
  return found


def tail_after(x: Array, tail: Array | None, spans: Spans | None, count: int) -> Array:
  """Returns [B, W - 1, C], the inputs that the convolution reads after the rows; `count` is W - 1, see `convolved`."""
  rows, length, _ = x.shape
  if tail is None:
    tail = jnp.zeros_like(x, shape=(1, count, x.shape[2]))
  tail = jnp.broadcast_to(tail, (rows, *tail.shape[1:])).astype(x.dtype)
  if spans is None:
    return jnp.concatenate([tail, x], axis=1)[:, -count:]
  in_run = spans.tokens & (spans.runs == spans.runs[:, -1:])
  size = jnp.sum(in_run, axis=1, keepdims=True)  # [B, 1] tokens of the last segment
  last = jnp.max(jnp.where(in_run, jnp.arange(length), -1), axis=1, keepdims=True)
  ago = jnp.arange(count - 1, -1, -1)[None]  # of each wanted input, counted from the last token
  own = _taken(x, jnp.maximum(last - ago, 0))
  before = _taken(tail, jnp.clip(count - 1 - ago + size, 0, count - 1))
  return jnp.where((ago < size)[..., None], own, before)


def _taken(x: Array, places: Array) -> Array:
  """Returns [B, T, C], the vectors of `x` [B, S, C] at the places [B, T] up to S; either may have one row for all."""
  places = jnp.minimum(places, x.shape[1] - 1)
  return x[0][places] if len(x) == 1 else jnp.take_along_axis(x, places[..., None], axis=1)


def step(query: Array, key: Array, value: Array, decay: Array, rate: Array, state: Array) -> tuple[Array, Array]:
  """Returns the output [B, G, R, V] of one position, and the state after it.

  Args:
    query: [B, G, K].
    key: [B, G, K].
    value: [B, G, R, V].
    decay: [B, G, R], g.
    rate: [B, G, R], β.
    state: [B, G, R, K, V].
  """
  query, key = query[:, :, None, :, None], key[:, :, None, :, None]
  state = state * jnp.exp(decay)[..., None, None]
  correction = (value - jnp.sum(state * key, axis=-2)) * rate[..., None]
  state = state + key * correction[..., None, :]
  return jnp.sum(state * query, axis=-2), state


def chunked(query: Array, key: Array, value: Array, decay: Array, rate: Array, *, state: Array | None = None,
            spans: Spans | None = None, size: int = CHUNK) -> tuple[Array, Array]:
  """Returns the outputs [B, T, G, R, V] of all positions, and the state [B, G, R, K, V] after the last segment.

  Args:
    query: [B, T, G, K].
    key: [B, T, G, K].
    value: [B, T, G, R, V].
    decay: [B, T, G, R], g; 0 for padding.
    rate: [B, T, G, R], β; 0 for padding.
    state: [B, G, R, K, V], or [1, ...] for all, before each segment; None means zeros.
    spans: of the rows; None means one segment without padding.
    size: C.
  """
  rows, length = key.shape[:2]
  size = min(size, length)
  runs = jnp.zeros((1, length), jnp.int32) if spans is None else spans.runs
  by_chunk = lambda x, mode='constant': _by_chunk(x, size, mode)
  runs = by_chunk(runs, 'edge')
  before = jnp.concatenate([jnp.zeros_like(runs[:, :1, 0]), runs[:, :-1, -1]], axis=1)  # [B, N]
  starts = runs != jnp.concatenate([before[..., None], runs[..., :-1]], axis=2)
  query, key, value, decay, rate = map(by_chunk, (query, key, value, decay, rate))
  # [B, N, C, ...] -> heads before positions
  query, key = (jnp.moveaxis(x, 2, 3) for x in (query, key))  # [B, N, G, C, K]
  value, decay, rate = (jnp.moveaxis(x, 2, 4) for x in (value, decay, rate))  # [B, N, G, R, C, ...]

  heads = lambda mask: mask[:, :, None, None]
  total = jnp.cumsum(decay, axis=-1)
  since = total - jax.lax.cummin(jnp.where(heads(starts), total - decay, 0.0), axis=total.ndim - 1)
  seen = heads(runs[..., :, None] == runs[..., None, :]) & jnp.tri(size, dtype=bool)
  pairs = jnp.exp(jnp.where(seen, total[..., :, None] - total[..., None, :], -jnp.inf))  # [B, N, G, R, C, C]
  products = lambda x: jnp.einsum('bngik,bngjk->bngij', x, key, precision=_EXACT)[:, :, :, None] * pairs
  reads = jnp.exp(since)[..., None] * key[:, :, :, None]  # [B, N, G, R, C, K], of the state before the chunk
  solved = jax.scipy.linalg.solve_triangular(
    products(key) * rate[..., None], jnp.concatenate([value, reads], axis=-1) * rate[..., None], lower=True,
    unit_diagonal=True)
  value, reads = jnp.split(solved, [value.shape[-1]], axis=-1)
  asks = jnp.exp(since)[..., None] * query[:, :, :, None]
  running = runs == before[..., None]  # positions of the segment that the chunk before ended with
  out, weights = 0.0, products(query)
  if spans is not None:
    if state is not None:
      reset = jnp.where(heads(running)[..., None], 0.0, 1.0)
      value -= _times(reads * reset, state)
      out = _times(asks * reset, state)
    reads, asks = (jnp.where(heads(running)[..., None], x, 0.0) for x in (reads, asks))
  shape = rows, *reads.shape[2:4], key.shape[-1], value.shape[-1]
  first = jnp.zeros(shape) if state is None else jnp.broadcast_to(state, shape).astype(jnp.float32)
  writes = pairs[..., -1, :, None] * key[:, :, :, None]  # what each position adds to the state after the chunk

  def one(state: Array, of_chunk: tuple[Array, ...]) -> tuple[Array, Array]:
    value, reads, asks, weights, writes, kept, goes_on = of_chunk
    value = value - jnp.einsum('bgrck,bgrkv->bgrcv', reads, state, precision=_EXACT)
    out = (jnp.einsum('bgrck,bgrkv->bgrcv', asks, state, precision=_EXACT)
           + jnp.einsum('bgrij,bgrjv->bgriv', weights, value, precision=_EXACT))
    state = jnp.where(goes_on[:, None, None, None, None], state, first)
    added = jnp.einsum('bgrck,bgrcv->bgrkv', writes, value, precision=_EXACT)
    return state * jnp.exp(kept)[..., None, None] + added, out

  parts = value, reads, asks, weights, writes, since[..., -1], running[..., -1]
  last, own = jax.lax.scan(one, first, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), parts))
  out = jnp.moveaxis(own, 0, 1) + out
  out = jnp.moveaxis(out, 4, 2)  # [B, N, G, R, C, V] -> [B, N, C, G, R, V]
  return out.reshape(rows, -1, *out.shape[3:])[:, :length], last


def _times(x: Array, state: Array) -> Array:
  """Returns [B, N, G, R, C, V], the vectors [B, N, G, R, C, K] times the state before the row."""
  state = jnp.broadcast_to(state, (len(x), *state.shape[1:]))
  return jnp.einsum('bngrck,bgrkv->bngrcv', x, state, precision=_EXACT)


def _by_chunk(x: Array, size: int, mode: str) -> Array:
  """Returns [B, T, ...] as chunks [B, N, C, ...], padded at the end."""
  padding = [(0, 0), (0, -x.shape[1] % size), *[(0, 0)] * (x.ndim - 2)]
  x = jnp.pad(x, padding, mode=mode)
  return x.reshape(len(x), -1, size, *x.shape[2:])
