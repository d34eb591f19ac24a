"""Generation: encodes the inputs once, then decodes token by token with caches, as one compiled program."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning import decoding
from prompt_tuning.conditioning import Conditioning
from prompt_tuning.models.attention import hide
from prompt_tuning.models.parameters import merge
from prompt_tuning.models.t5 import T5, memory_keys_values
from prompt_tuning.types import Array, Batch, Params

Sampler = Callable[..., tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class Greedy:
  """Takes the likeliest token at every step.

  Attributes:
    num_decodes: how many sequences each input gets: one.
  """

  num_decodes: int = 1

  def __call__(self, step: Any, cache: Any, key: Array, row_ids: Array, **shape: Any) -> tuple[Array, Array]:
    """Returns tokens [B, 1, S] and scores [B, 1], see `decoding.greedy`."""
    del key, row_ids
    if self.num_decodes != 1:
      raise ValueError(f'Greedy decoding gives one sequence, but num_decodes is {self.num_decodes}. '
                       'Use BeamSearch or Sampling for several.')
    return decoding.greedy(step, cache, **shape)


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Draws each token, see `decoding.temperature_sample`.

  Attributes:
    temperature: 0 is greedy.
    topk: draw among the k likeliest tokens; 0 is all.
    topp: draw among the likeliest tokens that reach this probability together; 0 is all.
    num_decodes: how many sequences each input gets.
  """

  temperature: float = 1.0
  topk: int = 0
  topp: float = 0.0
  num_decodes: int = 1

  def __call__(self, step: Any, cache: Any, key: Array, row_ids: Array, **shape: Any) -> tuple[Array, Array]:
    """Returns tokens [B, N, S] and scores [B, N]."""
    return decoding.temperature_sample(step, cache, key, row_ids=row_ids, **dataclasses.asdict(self), **shape)


@dataclasses.dataclass(frozen=True)
class BeamSearch:
  """Keeps the best few sequences at every step, see `decoding.beam_search`.

  Attributes:
    num_decodes: how many beams, and sequences for each input.
    alpha: strength of the length penalty.
    penalty: 't5x' or 'transformers', whose form of penalty and stopping rule.
    early_stopping: the stopping rule of transformers' form.
  """

  num_decodes: int = 1
  alpha: float = 0.6
  penalty: str = 't5x'
  early_stopping: bool | str = False

  def __call__(self, step: Any, cache: Any, key: Array, row_ids: Array, **shape: Any) -> tuple[Array, Array]:
    """Returns tokens [B, N, S] and scores [B, N], best last."""
    del key, row_ids
    return decoding.beam_search(step, cache, **dataclasses.asdict(self), **shape)


@functools.partial(jax.jit, static_argnames=('module', 'sampler', 'max_length', 'eos_id', 'pad_id'))
def generate(module: T5, params: Params, batch: Batch, conditioning: Conditioning, key: Array, *,
             sampler: Sampler, max_length: int, eos_id: int = 1, pad_id: int = 0) -> tuple[Array, Array]:
  """Decodes an answer to each row of a batch. One program for each shape of the batch.

  Args:
    module: the frozen model.
    params: its parameters.
    batch: as `layouts` describes it, one segment a row; the decoder's part is not read.
    conditioning: what the model is handed.
    key: for samplers that draw.
    sampler: how tokens are chosen.
    max_length: S, the most tokens of an answer, end token included.
    eos_id: the token that ends an answer.
    pad_id: the token that fills what follows, and that the decoder starts with.

  Returns:
    Tokens [B, N, S] and scores [B, N], the best last.
  """
  params = merge(params, conditioning.parameters)
  apply = functools.partial(module.apply, {'params': params})
  config = module.config
  output = apply(batch, conditioning, method='encode')
  rows, count = output.shape[0], sampler.num_decodes
  memory = memory_keys_values(config, params, output)
  bias = hide(jnp.repeat(batch['encoder']['segments'] > 0, count, axis=0))[:, None, None, :]
  # [L, B, N, H, S, K]: the sequences grown so far, N for each row
  shape = (config.decoder_layers, rows, count, config.heads, max_length, config.head_dim)
  cache = (jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))

  def step(ids: Array, index: Array, cache: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
    joined = tuple(part.reshape(shape[0], rows * count, *shape[3:]) for part in cache)
    logits, own = apply(ids.reshape(-1), index, joined, memory, bias, method='decode_next')
    written = tuple(
      jax.lax.dynamic_update_slice_in_dim(part, new.reshape(*shape[:4], 1, shape[5]), index, axis=4)
      for part, new in zip(cache, own, strict=True))
    return logits.reshape(rows, count, -1), written

  # Rows that only fill the batch must not keep the loop going.
  active = jnp.any(batch['encoder']['segments'] > 0, axis=1)
  return sampler(step, cache, key, batch['example_ids'], batch_size=rows, max_length=max_length, eos_id=eos_id,
                 start_id=pad_id, pad_id=pad_id, active=active)
