"""Generation: encodes the inputs once, then decodes token by token with caches, in one compiled program."""

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
  """Generates sequences for each row of a batch. Each shape of a batch compiles one program.

  Args:
    module: the frozen model. Its `begin` returns the decoding step that `decoding` calls, the cache that steps pass on,
      and a mask [B] of the rows to generate for.
    params: its parameters.
    batch: made of `Layout.question`s, one segment per row, padded as the layout says.
    conditioning: the model's conditioning.
    key: for samplers that draw.
    sampler: chooses the tokens.
    max_length: S, the maximum number of generated tokens, including the end token.
    end_ids: the tokens that end a sequence.
    pad_id: the token that fills the rest, and that the decoder starts with.

  Returns:
    Tokens [B, N, S] and scores [B, N], best last.
  """
  params = ready(module, params, conditioning.parameters)
  # Rows that only fill up the batch are not active: they must not keep the loop running.
  step, cache, active = module.begin(params, batch, conditioning, count=sampler.num_decodes, max_length=max_length)
  return sharding.whole(module.config.mesh, sampler(
    step, cache, key, batch['example_ids'], batch_size=active.shape[0], max_length=max_length, end_ids=end_ids,
    start_id=pad_id, pad_id=pad_id, active=active))
