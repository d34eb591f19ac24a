"""Compiled functions of a frozen model: logits, scores, attention weights, and the cached context of texts."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning import trees
from prompt_tuning.decoding.joint import joint, one_each
from prompt_tuning.devices import sharding
from prompt_tuning.losses.chunks import at_targets
from prompt_tuning.losses.cross_entropy import log_probabilities
from prompt_tuning.models.parameters import ready
from prompt_tuning.rows.conditioning import Conditioning, Context
from prompt_tuning.rows.layouts import target_rows
from prompt_tuning.types import Array, Batch, Params


@functools.partial(jax.jit, static_argnames=('module', 'hidden'))
def apply_model(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning, *,
                hidden: bool = False) -> Array:
  """Returns the logits [B, S, V] of a batch's targets, or `hidden` states [B, S, D], without dropout.

  For an ensemble of M prompts, whose B·M rows have the hidden states, logits are the log of the mean of probabilities.
  """
  x, project = hidden_states(module, params, batch, conditioning)
  return sharding.whole(module.config.mesh, x if hidden else one_each(project(x), conditioning.members))


def hidden_states(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning, *,
                  dropout: Array | None = None) -> tuple[Array, Callable[[Array], Array]]:
  """Returns the hidden states [B, S, D] of a batch's targets, and the function that makes logits [B, C, V] of some.

  It is called inside a compiled function; the results stay on their devices. The logits of an ensemble's rows are
  joint, see `decoding.joint`. The function's `frozen` says that it reads no trained tensor.
  """
  variables = {'params': ready(module, params, conditioning.parameters)}
  x = module.apply(variables, batch, conditioning, dropout=dropout, hidden=True)
  project = lambda part: joint(module.apply(variables, part, method='project'), conditioning.members)
  project.frozen = all(trees.split_layer_name(name)[1] is not None for name in conditioning.parameters)
  return x, project


@functools.partial(jax.jit, static_argnames='module')
def score_batch(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning) -> Array:
  """Returns [B], the log-likelihood of each row's targets."""
  rows = target_rows(batch)
  x, project = hidden_states(module, params, batch, conditioning)
  weights = rows['loss_weights']
  scores = at_targets(log_probabilities, project, x, weights, rows['targets'])
  return sharding.whole(module.config.mesh, one_each(jnp.sum(scores * weights, axis=-1), conditioning.members))


@functools.partial(jax.jit, static_argnames='module')
def attention_weights(module: nn.Module, params: Params, batch: Batch, conditioning: Conditioning) -> dict[str, Array]:
  """Returns the attention weights [L, B, H, T, S] of each attention, by its name in the parameters.

  S counts cached positions first, then the layer's own. Names are 'decoder/layers/self_attention' and the like. A
  self-attention that also reads a memory in its softmax has two entries, as if they were separate.
  """
  _, kept = module.apply({'params': ready(module, params, conditioning.parameters)}, batch, conditioning,
                         mutable=['intermediates'])
  # If a stack ran a prompt separately before the rows, the last weights are those of the rows.
  flat = trees.flatten(kept['intermediates'])
  found = {name.replace('self_attention/memory_weights', 'encoder_decoder_attention').removesuffix('/weights'): runs[-1]
           for name, runs in flat.items()}
  named = {trees.without_group(name): trees.of_groups(trees.without_group(name), found) for name in found}
  numbers = {name: [trees.layer_number(part, i) for part in parts for i in range(len(found[part]))]
             for name, parts in named.items()}
  return sharding.whole(module.config.mesh, {
    name: jnp.concatenate([found[part] for part in parts])[np.argsort(numbers[name])] for name, parts in named.items()})


@functools.partial(jax.jit, static_argnames='module')
def read_batch(module: nn.Module, params: Params, batch: Batch) -> Context:
  """Returns the cached context of a batch of texts, for a decoder-only model."""
  _, fronts, state, _ = module.apply({'params': ready(module, params, {})}, batch, Conditioning(), method='prefill')
  read = Context(fronts[-1].keys, fronts[-1].values, target_rows(batch)['segments'] > 0, state)
  return sharding.whole(module.config.mesh, read)
