"""Attention over blocks of keys and values, and the rule of who sees whom."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.types import Array

HIDDEN = -1e10  # added to a logit that must not count; finite, so that a row that sees nothing stays finite


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
  """Keys and values that queries may attend to, beside or in front of their own.

  A block with fewer rows or heads than the queries is shared: each of its rows serves equally many rows of queries
  behind one another (the beams of an example read one memory, all rows one prefix), each of its heads a group of
  heads (grouped-query attention, Ainslie et al. 2023), without a copy for each.

  Attributes:
    keys: [B, H, S, K], or fewer rows or heads.
    values: as `keys`.
    biases: each broadcastable to [B, H, T, S], added to the logits one by one: who sees whom [B, 1, T, S] and
      positions [H, T, S] are together smaller than their sum.
    segments: of queries [B, T] and of keys [B, S], where the biases only hide what is of another segment or none, and
      with `causal` what stands behind; None where they say more.
    causal: see there.
  """

  keys: Array
  values: Array
  biases: tuple[Array, ...] = ()
  segments: tuple[Array, Array] | None = None
  causal: bool = dataclasses.field(default=False, metadata={'static': True})


def attend(query: Array, blocks: Sequence[Block], *, dropout: Array | None = None,
           cap: float = 0.0) -> tuple[Array, Array]:
  """Returns softmax(query · keys + biases) · values over all blocks together, and the weights [B, H, T, S].

  Logits are not scaled by the head width: T5 folds that into its initialiser, other families scale the query.
  They are taken in float32.

  Args:
    query: [B, H, T, K].
    blocks: joined before the softmax, without copying them behind one another.
    dropout: [B, H, 1, S] factors on the attention weights, S counting all blocks.
    cap: products are squashed to between -cap and cap by a tanh (Gemma 2); 0 leaves them.
  """
  logits = []
  for block in blocks:
    products = _product('bhtk,bhsk->bhts', query, block.keys, preferred_element_type=jnp.float32)
    if cap:
      products = cap * jnp.tanh(products / cap)
    logits.append(sum(block.biases, start=products))
  weights = jax.nn.softmax(logits[0] if len(logits) == 1 else jnp.concatenate(logits, axis=-1), axis=-1)
  weights = checkpoint_name(weights, 'attention_weights')
  if dropout is not None:
    weights = weights * dropout
  weights = weights.astype(query.dtype)
  out, start = 0, 0
  for block in blocks:
    length = block.keys.shape[2]
    part = weights if len(blocks) == 1 else weights[..., start:start + length]
    out = out + _product('bhts,bhsk->bhtk', part, block.values)
    start += length
  return out, weights


def _product(formula: str, of_queries: Array, of_block: Array, **options) -> Array:
  """Multiplies [B, H, T, ·] with a block's [b, h, S, ·]: B/b rows of queries and H/h heads share what they read."""
  (rows, heads, length, inner), (block_rows, block_heads) = of_queries.shape, of_block.shape[:2]
  if (rows, heads) == (block_rows, block_heads):
    return jnp.einsum(formula, of_queries, of_block, **options)
  sharing = (rows // block_rows, heads // block_heads)
  # Those who share stand behind one another, as one row's and head's queries.
  grouped = of_queries.reshape(block_rows, sharing[0], block_heads, sharing[1], length, inner).swapaxes(1, 2)
  out = jnp.einsum(formula, grouped.reshape(block_rows, block_heads, -1, inner), of_block, **options)
  out = out.reshape(block_rows, block_heads, *sharing, length, out.shape[-1]).swapaxes(1, 2)
  return out.reshape(rows, heads, length, out.shape[-1])


def hide(visible: Array) -> Array:
  """Returns the bias of a mask: 0 where `visible`, else `HIDDEN`."""
  return jnp.where(visible, 0.0, HIDDEN).astype(jnp.float32)


def self_visible(layout: Mapping[str, Array], *, causal: bool, visibility: Visibility) -> Array:
  """Says who sees whom within one stack.

  Args:
    layout: the stack's part of a batch; each array [B, T]. Without `prompt_slots` there is no prompt among them.
    causal: a position sees itself and what stands before it; where `layout` has `bidirectional`, those it marks
      see one another (a prefix-LM).
    visibility: what the prompt's positions see beside themselves.

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
  """Says which positions [B, T] of the encoder each decoder position [B, S] reads: [B, 1, S, T] booleans."""
  return ((memory_segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0))[:, None]
