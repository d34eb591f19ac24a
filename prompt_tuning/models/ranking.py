"""Scores of given targets. They share the work of their input, which is encoded, or read, once for all of them."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.decoding.joint import joined, one_each
from prompt_tuning.devices import sharding
from prompt_tuning.models.parameters import ready
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.types import Array, Batch, Params


@functools.partial(jax.jit, static_argnames=('module', 'start_id'))
def rank_batch(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning, answers: Array,
               lengths: Array, *, start_id: int = 0) -> Array:
  """Returns [B, C], the log-likelihood of each of C targets for each row of a batch.

  Args:
    module: the frozen model. Its `begin` is that of decoding, see `generation.generate`; here the target's tokens take
      the place of generated ones.
    params: its parameters.
    batch: made of `Layout.question`s, padded as the layout says.
    conditioning: the model's conditioning.
    answers: [C, S] token ids of the targets, the same for all rows.
    lengths: [C], the length of each target, at most S.
    start_id: the token that the decoder starts with.
  """
  params = ready(module, params, conditioning.parameters)
  count, longest = answers.shape
  steps, cache, _ = module.begin(params, batch, conditioning, count=count, max_length=longest)
  steps = joined(steps, conditioning.members)
  rows = len(batch['example_ids'])

  def score(carry: tuple[Array, Array, Array], index: Array) -> tuple[tuple[Array, Array, Array], None]:
    ids, cache, total = carry
    logits, cache = steps(params, ids, index, cache)
    ids = jnp.broadcast_to(answers[:, index], (rows, count))
    found = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=-1)[..., 0]
    return (ids, cache, total + jnp.where(index < lengths, found, 0.0)), None

  first = jnp.full((rows, count), start_id, answers.dtype)
  (_, _, total), _ = jax.lax.scan(score, (first, cache, jnp.zeros((rows, count))), jnp.arange(longest))
  return sharding.whole(module.config.mesh, one_each(total, conditioning.members))
