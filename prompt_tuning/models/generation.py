"""Generation: encodes the inputs once, then decodes token by token with caches.

`generate` does all in one compiled program. `start` and `proceed` are its two halves, for callers that look at the
tokens in between: streams, and texts that end a generation.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning.decoding import sequences
from prompt_tuning.decoding.cache import row_keys
from prompt_tuning.decoding.joint import joined, one_each
from prompt_tuning.decoding.samplers import BeamSearch, Sampler
from prompt_tuning.decoding.sampling import sampled
from prompt_tuning.decoding.sequences import Sequences
from prompt_tuning.devices import sharding
from prompt_tuning.models.parameters import ready
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.types import Array, Batch, Params


def generate(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning, key: Array, *,
             sampler: Sampler, max_length: int, end_ids: tuple[int, ...] = (1,), pad_id: int = 0,
             layers: Params | None = None) -> tuple[Array, Array]:
  """Generates sequences for each row of a batch. Each shape of a batch compiles one program.

  Args:
    module: the frozen model. Its `begin` returns the decoding step that `decoding` calls, the cache that steps pass on,
      and a mask [B] of the rows to generate for.
    params: its parameters.
    batch: made of `Layout.question`s, one segment per row, padded as the layout says.
    conditioning: the model's conditioning.
    key: for samplers that draw; the noise of a row depends on its number in the stream too.
    sampler: chooses the tokens.
    max_length: S, the maximum number of generated tokens, including the end token.
    end_ids: the tokens that end a sequence.
    pad_id: the token that fills the rest, and that the decoder starts with.
    layers: the parameters for the decoding steps, if they are apart (`LanguageModel.layers`); None uses `params`.

  Returns:
    Tokens [B, N, S] and scores [B, N], best last.
  """
  return _generate(module, params, params if layers is None else layers, batch, conditioning, key, sampler,
                   np.asarray(end_ids, np.int32), max_length=max_length, pad_id=pad_id)


@functools.partial(jax.jit, static_argnames=('module', 'max_length', 'pad_id'))
def _generate(module: nn.Module, params: Params, layers: Params, batch: Batch, conditioning: Conditioning, key: Array,
              sampler: Sampler, end_ids: Array, *, max_length: int, pad_id: int) -> tuple[Array, Array]:
  params, layers = (ready(module, each, conditioning.parameters) for each in (params, layers))
  # Rows that only fill up the batch are not active: they must not keep the loop running.
  steps, cache, active = module.begin(params, batch, conditioning, count=sampler.num_decodes, max_length=max_length)
  keys = row_keys(key, jnp.asarray(batch['example_ids']))
  run = sampler.search if isinstance(sampler, BeamSearch) else functools.partial(_sampled, sampler)
  found = run(functools.partial(joined(steps, conditioning.members), layers), cache, keys, max_length=max_length,
              end_ids=end_ids, start_id=pad_id, pad_id=pad_id, active=active)
  return sharding.whole(module.config.mesh, one_each(found, conditioning.members))


def _sampled(sampler: Any, step: Any, cache: Any, keys: Array, **settings: Any) -> tuple[Array, Array]:
  return sampled(step, cache, sampler, keys, **settings)


@functools.partial(jax.jit, static_argnames=('module', 'num_decodes', 'max_length', 'top'))
def start(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning, seeds: Array, row_ids: Array,
          end_ids: Array, budgets: Array, *, num_decodes: int, max_length: int, top: int = 0) -> tuple[Any, Sequences]:
  """Reads the inputs of a batch, to generate sequences for them.

  Args:
    module: as in `generate`.
    params: likewise.
    batch: likewise.
    conditioning: likewise.
    seeds: [B] of the rows' noise.
    row_ids: [B] numbers that make the noise of rows with one seed differ.
    end_ids: [B, E] the tokens that end a row's sequences; -1 is none.
    budgets: [B] the most tokens of a row's sequences.
    num_decodes: N.
    max_length: S, the places of the cache.
    top: K, so many likeliest tokens are logged at each place; 0 logs nothing.

  Returns:
    The decoding step of these inputs, called with the parameters; and the sequences before their first token.
  """
  params = ready(module, params, conditioning.parameters)
  steps, cache, active = module.begin(params, batch, conditioning, count=num_decodes, max_length=max_length)
  keys = jax.vmap(lambda seed, row: jax.random.fold_in(jax.random.key(seed), row))(seeds, row_ids)
  return joined(steps, conditioning.members), _readable(module, sequences.begin(
    cache, keys, num_decodes=num_decodes, max_length=max_length, end_ids=end_ids, active=active, budgets=budgets,
    top=top))


@functools.partial(jax.jit, static_argnames='module', donate_argnames='state')
def proceed(module: nn.Module, layers: Params, conditioning: Conditioning, steps: Any, state: Sequences,
            sampler: Any, until: Array | int) -> Sequences:
  """Generates tokens until the index `until`, or until all sequences have ended.

  Args:
    module: as in `generate`.
    layers: likewise.
    conditioning: likewise.
    steps: of `start`.
    state: the sequences so far; the caller may not use it again.
    sampler: chooses the tokens; beam search is not possible.
    until: an index.
  """
  params = ready(module, layers, conditioning.parameters)
  return _readable(module, sequences.grow(functools.partial(steps, params), state, sampler, until))


def _readable(module: nn.Module, state: Sequences) -> Sequences:
  """Returns sequences that every host can read; the cache stays spread over the devices."""
  whole = sharding.whole(module.config.mesh, dataclasses.replace(state, cache=None, keys=None))
  return dataclasses.replace(whole, cache=state.cache, keys=state.keys)
