"""What a decoder reads of an encoder: its output as keys and values, and what stands before it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning.devices import sharding
from prompt_tuning.models import dense
from prompt_tuning.models.fronts import choose, front_of
from prompt_tuning.models.norms import head_norm
from prompt_tuning.models.quantised import dequantised
from prompt_tuning.models.scaling import Scaling, picked
from prompt_tuning.models.stack import Front
from prompt_tuning.models.stack_config import StackConfig, self_attention_name
from prompt_tuning.rows.conditioning import StackConditioning
from prompt_tuning.types import Array, Batch, Params


def memory_front(given: StackConditioning, batch: Batch) -> Front | None:
  """Returns the prefix before the encoder's output in cross-attention."""
  if given.memory_prefix is None:
    return None
  return front_of(given.memory_prefix, batch['prompt_ids'], given.lengths.get('memory_prefix'), placed=False)[0]


def chosen_prompts(of_prompt: Array, given: StackConditioning, batch: Batch) -> tuple[Array, Array]:
  """Returns the encoder's output for each row's prompt [B, P, D] ([1, P, D] for all), and a bias that hides padding."""
  (count, length, _), lengths = of_prompt.shape, given.lengths.get('prompt')
  if count == 1 and lengths is None:
    return of_prompt, jnp.zeros((1, 1, 1, 1))
  chosen, _, bias = choose(batch['prompt_ids'], lengths, count, length)
  return of_prompt[chosen], bias


def memory_keys_values(stack: StackConfig, params: Mapping[str, Any], memory: Array,
                       scaling: Scaling | None = None) -> tuple[Array, Array]:
  """Returns every decoder layer's keys and values of the encoder's output [B, T, D]: [L, B, kv_heads, T, K] twice."""
  place = self_attention_name(stack) if stack.merged else 'encoder_decoder_attention'
  attention, arrays = params['decoder']['layers'][place], scaling.arrays if scaling else {}

  def project(name: str, norms: Params) -> Array:
    def one(of_layer: tuple[Params, Params, Params]) -> Array:
      layer, norm, scales = of_layer
      kernel = dequantised(sharding.gather(f'{name}/kernel', layer['kernel'], stack.mesh), memory.dtype)
      heads = dense.apply_scaled({**layer, 'kernel': kernel}, memory, memory.dtype,
                                 picked(scales, scaling and scaling.memory_rows), f'{place}/{name}')
      heads = heads.reshape(*heads.shape[:2], -1, stack.head_dim)
      if norm:
        heads = head_norm(stack, parent=None).apply({'params': norm}, heads)
      return heads.swapaxes(1, 2)  # -> [B, H, T, K]

    return jax.lax.map(one, (attention[name], norms, arrays))

  return project('key', attention.get('key_norm', {})), project('value', {})
