"""Generation: encodes the inputs once, then decodes token by token with caches, as one compiled program."""

import functools

import jax
from flax import linen as nn

from prompt_tuning.decoding.samplers import Sampler
from prompt_tuning.devices import sharding
from prompt_tuning.models.parameters import ready
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.types import Array, Batch, Params


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
