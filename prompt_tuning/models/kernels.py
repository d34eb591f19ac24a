"""The program that computes attention: plain XLA everywhere, cuDNN's kernel on NVIDIA GPUs, or Pallas' on TPUs.

The kernels are flash attention (Dao et al. 2022): they read keys tile by tile and never hold the weights [B, H, T, S].
They read one array of keys and one of values, so blocks are joined first; nothing is scaled by the head width. They are
not used for one query at a time: its weights are small, and joining would copy the cache for every token.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh, PartitionSpec

from prompt_tuning.devices import meshes, sharding
from prompt_tuning.models import attention
from prompt_tuning.models.attention import Block
from prompt_tuning.types import Array

_TILE = 128  # of queries and of keys, in Pallas' kernel


@dataclasses.dataclass(frozen=True)
class Facts:
  """The properties of an attention that are known before it is compiled.

  Attributes:
    platform: 'cpu', 'gpu' or 'tpu'.
    capability: the compute capability of an NVIDIA GPU, such as 8.0; 0 for other devices.
    dtype: type of the queries.
    queries: T.
    keys: S of all blocks.
    head_dim: K.
    by_head: biases differ between heads.
    by_segments: only segments, and the order of a causal stack, hide keys.
    dropout: attention weights are dropped.
    cap: logits are capped.
    weights: the caller needs the attention weights.
    sinks: heads have a logit for attending to nothing.
  """

  platform: str
  dtype: Any
  queries: int
  keys: int
  head_dim: int
  capability: float = 0.0
  by_head: bool = False
  by_segments: bool = False
  dropout: bool = False
  cap: bool = False
  weights: bool = False
  sinks: bool = False


def choose(asked: str, facts: Facts) -> tuple[str, str]:
  """Returns 'xla', 'cudnn' or 'pallas', and the reason.

  Args:
    asked: one of these, or 'auto': the platform's kernel if it needs less memory. A requested kernel is replaced by
      plain XLA if the attention weights are needed, and for one query at a time.
    facts: of the attention.

  Raises:
    ValueError: the requested kernel cannot run.
  """
  kernel = {'gpu': 'cudnn', 'tpu': 'pallas'}.get(facts.platform, 'xla') if asked == 'auto' else asked
  if kernel == 'xla':
    return 'xla', 'requested' if asked == 'xla' else f'there is no kernel for a {facts.platform}'
  hindrance = _first(_hindrances(kernel, facts))
  if hindrance and asked != 'auto':
    raise ValueError(f"attention={asked!r} cannot be used: {hindrance}. Use 'auto', or 'xla', which runs everywhere.")
  reason = hindrance or _first([(facts.weights, 'the attention weights are needed'),
                                (facts.queries == 1, 'there is one query at a time')])
  if asked == 'auto':
    least = max(_TILE, 2 * facts.head_dim)  # for fewer, the weights are no larger than keys and values
    reason = reason or _first([
      (facts.by_head, 'the biases of every head would be added up to [B, H, T, S]'),
      (kernel == 'pallas' and not facts.by_segments, 'the biases would be added up to [B, H, T, S]'),
      (facts.queries < least, f'{facts.queries} queries are fewer than {least}'),
      (facts.keys < _TILE, f'{facts.keys} keys are fewer than {_TILE}')])
  return ('xla', reason) if reason else (kernel, 'requested' if asked == kernel else 'types and shapes allow it')


def _hindrances(kernel: str, facts: Facts) -> list[tuple[Any, str]]:
  """Returns pairs: whether a condition holds, and why the kernel cannot run then."""
  dtype, width = jnp.dtype(facts.dtype), facts.head_dim
  of_all = [(facts.dropout, 'attention weights are dropped in training (dropout_rate)'),
            (facts.cap, 'attention logits are capped (attention_cap)'),
            (facts.sinks, 'heads can attend to nothing (sinks)')]
  if kernel == 'pallas':
    return [(facts.platform != 'tpu', f"Pallas' kernel needs a TPU, and this is a {facts.platform}"),
            (dtype not in (jnp.float32, jnp.bfloat16), f'activations are {dtype}, not bfloat16 or float32'),
            (width > _TILE and width % _TILE, f'heads have width {width}, not at most {_TILE} or a multiple of it'),
            *of_all]
  most = 256 if facts.capability >= 9 else 128
  return [(facts.platform != 'gpu', f"cuDNN's kernel needs a GPU, and this is a {facts.platform}"),
          (facts.capability < 8, f"cuDNN's kernel needs compute capability 8.0, and this has {facts.capability}"),
          (dtype not in (jnp.float16, jnp.bfloat16), f'activations are {dtype}, not bfloat16 or float16'),
          (width % 8 or width > most, f'heads have width {width}, not a multiple of 8 up to {most}'), *of_all]


def _first(reasons: Sequence[tuple[Any, str]]) -> str:
  """Returns the text of the first condition that holds, or ''."""
  return next((text for holds, text in reasons if holds), '')


def attend(query: Array, blocks: Sequence[Block], *, asked: str = 'xla', dropout: Array | None = None,
           cap: float = 0.0, weights: bool = False, mesh: Mesh | None = None,
           sinks: Array | None = None) -> tuple[Array, Array | None]:
  """Returns the result of `attention.attend`, from the program that `choose` selects; a kernel returns no weights.

  Args:
    query: as in `attention.attend`, like `blocks`, `dropout` and `cap`.
    asked: as in `choose`.
    weights: the caller needs the attention weights.
    mesh: the devices that the model is spread over; each runs a kernel on its own rows and heads.
    sinks: as in `attention.attend`.

  Raises:
    ValueError: the requested kernel cannot run.
  """
  (_, heads, length, width), count = query.shape, sum(block.keys.shape[2] for block in blocks)
  segments = blocks[0].segments if len(blocks) == 1 else None
  device = meshes.device(mesh)
  backend, reason = choose(asked, Facts(
    platform=device.platform, dtype=query.dtype, queries=length, keys=count, head_dim=width,
    capability=_capability(device),
    by_head=any(bias.ndim > 2 and bias.shape[-3] > 1 for block in blocks for bias in block.biases),
    by_segments=segments is not None, dropout=dropout is not None, cap=bool(cap), weights=weights,
    sinks=sinks is not None))
  _log(f'Attention of {length} queries to {count} keys: {backend}, as {reason}.')
  if backend == 'xla':
    return attention.attend(query, blocks, dropout=dropout, cap=cap, sinks=sinks)
  if backend == 'pallas' and segments is not None:
    blocks = [dataclasses.replace(blocks[0], biases=())]
  own = max(block.keys.shape[1] for block in blocks)  # cuDNN reads fewer heads of keys than of queries
  keys, values, bias = join(query, blocks, own if backend == 'cudnn' else heads)
  if backend == 'cudnn':
    return on_each_device(cudnn, mesh)(query, keys, values, bias), None
  causal = segments is not None and blocks[0].causal
  return on_each_device(functools.partial(pallas, causal=causal), mesh)(query, keys, values, bias, segments), None


def _capability(device: Any) -> float:
  """Returns the compute capability of an NVIDIA GPU; 0 for other devices."""
  found = str(getattr(device, 'compute_capability', ''))  # AMD's is a name
  return float(found) if found.replace('.', '').isdigit() else 0.0


@functools.cache
def _log(message: str) -> None:
  """Logs a message once."""
  logging.info(message)


def join(query: Array, blocks: Sequence[Block], heads: int) -> tuple[Array, Array, Array | None]:
  """Returns keys and values [B, heads, S, K] of all blocks, and the sum of their biases [B or 1, H or 1, T, S] or None.

  Rows and heads that are shared are copied.
  """
  def together(arrays: Sequence[Array]) -> Array:
    copied = (jnp.repeat(jnp.repeat(array, query.shape[0] // array.shape[0], axis=0), heads // array.shape[1], axis=1)
              for array in arrays)
    return jnp.concatenate([array.astype(query.dtype) for array in copied], axis=2)

  keys, values = together([block.keys for block in blocks]), together([block.values for block in blocks])
  if not any(block.biases for block in blocks):
    return keys, values, None
  leading = jnp.broadcast_shapes((1, 1), *(bias.shape[:-2] for block in blocks for bias in block.biases))
  biases = [jnp.broadcast_to(sum(block.biases, start=0.0), (*leading, query.shape[2], block.keys.shape[2]))
            for block in blocks]
  return keys, values, jnp.concatenate(biases, axis=3)


def cudnn(query: Array, keys: Array, values: Array, bias: Array | None, *, implementation: str = 'cudnn') -> Array:
  """Returns attention [B, H, T, K] to joined keys and values, which may have fewer heads.

  Args:
    query: [B, H, T, K].
    keys: [B, heads, S, K].
    values: as `keys`.
    bias: [B or 1, H or 1, T, S]; it is rounded to the queries' type.
    implementation: of `jax.nn.dot_product_attention`.
  """
  length = query.shape[2]
  if bias is not None:
    query, keys, values, bias = _padded(query, keys, values, bias, 2)  # a gradient needs even lengths
  out = jax.nn.dot_product_attention(*(x.swapaxes(1, 2) for x in (query, keys, values)), bias, scale=1.0,
                                     implementation=implementation)
  return out.swapaxes(1, 2)[:, :, :length]


def pallas(query: Array, keys: Array, values: Array, bias: Array | None, segments: tuple[Array, Array] | None = None, *,
           causal: bool = False) -> Array:
  """Returns attention [B, H, T, K] to joined keys and values [B, H, S, K].

  Args:
    query: [B, H, T, K].
    keys: [B, H, S, K].
    values: as `keys`.
    bias: broadcastable to [B, H, T, S], to which it is expanded; None if segments determine visibility.
    segments: of queries [B, T] and of keys [B, S]; only equal segments see one another.
    causal: no position sees later ones.
  """
  from jax.experimental.pallas.ops.tpu import flash_attention as flash

  (rows, heads, length, _), count = query.shape, keys.shape[2]
  if segments is None and bias is None and count % _TILE:
    bias = jnp.zeros((1, 1, length, count))  # to hide the padding
  query, keys, values, bias = _padded(query, keys, values, bias, _TILE)
  if bias is not None:
    bias = jnp.broadcast_to(bias, (rows, heads, *bias.shape[2:]))
  if segments is not None:  # the padding of keys becomes a separate segment
    missing = (query.shape[2] - length, keys.shape[2] - count)
    segments = flash.SegmentIds(*(jnp.pad(x, ((0, 0), (0, more)), constant_values=of_padding)
                                  for x, more, of_padding in zip(segments, missing, (-1, -2), strict=True)))
  return flash.flash_attention(query, keys, values, bias, segments, causal=causal)[:, :, :length]


def _padded(query: Array, keys: Array, values: Array, bias: Array | None, multiple: int) -> tuple[Any, ...]:
  """Returns all arrays with T and S rounded up; no query sees the added keys.

  Their bias is lower than that of hidden keys, so the result of a row that sees nothing does not change.
  """
  lowest = -2.0**15 if query.dtype == jnp.float16 else -2.0**41  # JAX's own choice: cuDNN fails on larger differences
  of_queries, of_keys = (0, -query.shape[2] % multiple), (0, -keys.shape[2] % multiple)
  rows = (0, 0), (0, 0)
  if bias is not None:
    bias = jnp.maximum(bias, lowest / 2).astype(query.dtype)
    bias = jnp.pad(bias, (*rows, of_queries, of_keys), constant_values=lowest)
  return (jnp.pad(query, (*rows, of_queries, (0, 0))), jnp.pad(keys, (*rows, of_keys, (0, 0))),
          jnp.pad(values, (*rows, of_keys, (0, 0))), bias)


def on_each_device(kernel: Callable[..., Array], mesh: Mesh | None) -> Callable[..., Array]:
  """Returns the kernel, run by each device on its own rows and heads, because the compiler cannot split it."""
  if mesh is None:
    return kernel
  apart = sharding.mapped_axes()  # of the caller

  def mapped(*arrays: Any) -> Array:
    rows = arrays[0].shape[0]
    over = tuple(axis for axis in sharding.RULES['batch'] if axis not in apart)
    over = over if over and rows % math.prod(mesh.shape[axis] for axis in over) == 0 else None
    spec = lambda x: PartitionSpec(over if x.shape[0] == rows else None,
                                   *(['model'] if x.ndim == 4 and x.shape[1] > 1 else []))
    return jax.shard_map(kernel, mesh=None if apart else mesh, in_specs=jax.tree.map(spec, arrays),
                         out_specs=spec(arrays[0]), axis_names=set(meshes.AXES) - apart, check_vma=False)(*arrays)

  return mapped
