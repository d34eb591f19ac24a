"""Attention over blocks of keys and values, and the rule for which position sees which."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.types import Array

_MANY_ROWS = 16  # from which XLA's CPU backend sums the values of one query faster than it multiplies matrices
HIDDEN = -1e10  # added to the logit of a hidden key; finite, so that a row that sees nothing stays finite


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
  """Keys and values that queries may attend to, in addition to their own or before them.

  A block with fewer rows or heads than the queries is shared without a copy: each of its rows serves the same number of
  consecutive rows of queries (the beams of an example read one memory, all rows one prefix), and each of its heads
  serves a group of heads (grouped-query attention, Ainslie et al. 2023).

  Attributes:
    keys: [B, H, S, K], or fewer rows or heads.
    values: as `keys`.
    biases: each broadcastable to [B, H, T, S], added to the logits one by one: visibility [B, 1, T, S] and positions
      [H, T, S] together are smaller than their sum.
    segments: of queries [B, T] and of keys [B, S], if the biases only hide other segments and padding, and with
      `causal` also later positions; else None.
    causal: see `segments`.
  """

  keys: Array
  values: Array
  biases: tuple[Array, ...] = ()
  segments: tuple[Array, Array] | None = None
  causal: bool = dataclasses.field(default=False, metadata={'static': True})


def attend(query: Array, blocks: Sequence[Block], *, dropout: Array | None = None,
           cap: float = 0.0, sinks: Array | None = None) -> tuple[Array, Array]:
  """Returns softmax(query · keys + biases) · values over all blocks together, and the weights [B, H, T, S].

  Logits are not scaled by the head width: T5 folds that into its initialiser, other families scale the query.
  They are computed in float32.

  Args:
    query: [B, H, T, K].
    blocks: their logits are joined before the softmax; keys and values are not copied into one array.
    dropout: [B, H, 1, S] factors on the attention weights; S counts all blocks.
    cap: products are limited to between -cap and cap by a tanh (Gemma 2); 0 means no limit.
    sinks: [H], logits for attending to nothing, which take a part of the weight (gpt-oss).
  """
  logits = []
  for block in blocks:
    products = _product('bhtk,bhsk->bhts', query, block.keys, preferred_element_type=jnp.float32)
    if cap:
      products = cap * jnp.tanh(products / cap)
    logits.append(sum(block.biases, start=products))
  if sinks is not None:
    sinks = sinks.astype(jnp.float32)[:, None, None]
    logits.append(jnp.broadcast_to(sinks, (*query.shape[:3], 1)))
  weights = _softmax(logits[0] if len(logits) == 1 else jnp.concatenate(logits, axis=-1))
  if sinks is not None:
    weights = weights[..., :-1]
  if dropout is not None:
    weights = weights * dropout
  weights = weights.astype(query.dtype)
  out, start = 0, 0
  for block in blocks:
    length = block.keys.shape[2]
    part = weights if len(blocks) == 1 else weights[..., start:start + length]
    out = out + _sum_of_values(part, block.values)
    start += length
  return out, weights


@jax.custom_jvp
def _softmax(logits: Array) -> Array:
  """Returns the softmax over the last axis. What its derivative reads has a name, so that it can be kept."""
  return jax.nn.softmax(logits, axis=-1)


@_softmax.defjvp
def _(logits: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
  weights, (tangent,) = checkpoint_name(jax.nn.softmax(*logits, axis=-1), 'attention_weights'), tangents
  return weights, weights * (tangent - jnp.sum(weights * tangent, axis=-1, keepdims=True))


def _sum_of_values(weights: Array, values: Array) -> Array:
  """Returns the values [B, H, S, K] (or fewer rows or heads), summed with weights [B, H, T, S]."""
  rows, heads, queries, _ = weights.shape
  if queries == 1 and rows >= _MANY_ROWS and (rows, heads) == values.shape[:2] and (
      weights.dtype == values.dtype == jnp.float32 and jax.default_backend() == 'cpu'):
    return jnp.sum(jnp.swapaxes(weights, 2, 3) * values, axis=2, keepdims=True)
  return _product('bhts,bhsk->bhtk', weights, values)


def _product(formula: str, of_queries: Array, of_block: Array, **options) -> Array:
  """Multiplies [B, H, T, ·] with a block's [b, h, S, ·]: B/b rows of queries and H/h heads share one of the block."""
  (rows, heads, length, inner), (block_rows, block_heads) = of_queries.shape, of_block.shape[:2]
  if (rows, heads) == (block_rows, block_heads):
    return jnp.einsum(formula, of_queries, of_block, **options)
  sharing = (rows // block_rows, heads // block_heads)
  # Queries that share a block's row and head are arranged as the queries of one row and head.
  grouped = of_queries.reshape(block_rows, sharing[0], block_heads, sharing[1], length, inner).swapaxes(1, 2)
  out = jnp.einsum(formula, grouped.reshape(block_rows, block_heads, -1, inner), of_block, **options)
  out = out.reshape(block_rows, block_heads, *sharing, length, out.shape[-1]).swapaxes(1, 2)
  return out.reshape(rows, heads, length, out.shape[-1])


def hide(visible: Array) -> Array:
  """Returns the bias of a mask: 0 where `visible`, else `HIDDEN`."""
  return jnp.where(visible, 0.0, HIDDEN).astype(jnp.float32)


def self_visible(layout: Mapping[str, Array], *, causal: bool, visibility: Visibility) -> Array:
  """Returns which positions of a stack each of its positions sees.

  Args:
    layout: the stack's part of a batch; each array [B, T]. Without `prompt_slots` the rows hold no prompt.
    causal: a position sees itself and earlier positions; if `layout` has `bidirectional`, the positions that it marks
      see one another (a prefix-LM).
    visibility: what the prompt's positions see in addition to themselves.

  Returns:
    [B, 1, T, T] booleans, queries before keys.
  """
  segments = layout['segments']
  visible = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0)
  if causal:
    index = jnp.arange(segments.shape[1])
    before = index[:, None] >= index[None, :]
    if 'bidirectional' in layout:
      both = layout['bidirectional'] > 0
      before = before | (both[:, :, None] & both[:, None, :])
    visible &= before
  if visibility != Visibility() and 'prompt_slots' in layout:
    prompt = layout['prompt_slots'] >= 0
    seen = jnp.where(prompt[:, None, :], visibility.prompt, visibility.input)
    own = jnp.eye(segments.shape[1], dtype=bool)
    visible &= ~prompt[:, :, None] | seen | own
  return visible[:, None]


def cross_visible(memory_segments: Array, segments: Array) -> Array:
  """Returns which encoder positions [B, T] each decoder position [B, S] reads: [B, 1, S, T] booleans."""
  return ((memory_segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0))[:, None]
