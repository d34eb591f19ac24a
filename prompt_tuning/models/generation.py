"""Generation: encodes the inputs once, then decodes token by token with caches, as one compiled program."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from prompt_tuning import decoding
from prompt_tuning.devices import sharding
from prompt_tuning.models.parameters import ready
from prompt_tuning.rows.conditioning import Conditioning
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
    temperature: continuations are drawn at this temperature; 0 takes the best.
  """

  num_decodes: int = 1
  alpha: float = 0.6
  penalty: str = 't5x'
  early_stopping: bool | str = False
  temperature: float = 0.0

  def __call__(self, step: Any, cache: Any, key: Array, row_ids: Array, **shape: Any) -> tuple[Array, Array]:
    """Returns tokens [B, N, S] and scores [B, N], best last."""
    return decoding.beam_search(step, cache, key, row_ids=row_ids, **dataclasses.asdict(self), **shape)


@functools.partial(jax.jit, static_argnames=('module', 'sampler', 'max_length', 'end_ids', 'pad_id'))
def generate(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning, key: Array, *,
             sampler: Sampler, max_length: int, end_ids: tuple[int, ...] = (1,),
             pad_id: int = 0) -> tuple[Array, Array]:
  """Decodes an answer to each row of a batch. One program for each shape of the batch.

  Args:
    module: the frozen model. Its `begin` gives the function of one step, as `decoding` calls it, the cache that the
      steps hand on, and which rows [B] are to be answered.
    params: its parameters.
    batch: of `Layout.question`s, one segment a row, padded as the layout says.
    conditioning: what the model is handed.
    key: for samplers that draw.
    sampler: how tokens are chosen.
    max_length: S, the most tokens of an answer, end token included.
    end_ids: the tokens that end an answer.
    pad_id: the token that fills what follows, and that the decoder starts with.

  Returns:
    Tokens [B, N, S] and scores [B, N], the best last.
  """
  params = ready(module, params, conditioning.parameters)
  # Rows that only fill the batch are not active: they must not keep the loop going.
  step, cache, active = module.begin(params, batch, conditioning, count=sampler.num_decodes, max_length=max_length)
  return sharding.whole(module.config.mesh, sampler(
    step, cache, key, batch['example_ids'], batch_size=active.shape[0], max_length=max_length, end_ids=end_ids,
    start_id=pad_id, pad_id=pad_id, active=active))
