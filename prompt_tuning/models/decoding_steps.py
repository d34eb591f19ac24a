"""The decoding step of a decoder-only model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.models.attention import hide
from prompt_tuning.models.fronts import joined, written
from prompt_tuning.models.scaling import Scaling
from prompt_tuning.models.stack import Front, Own
from prompt_tuning.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Steps:
  """The decoding step behind the inputs of a batch.

  Attributes:
    module: the model.
    first: [B·N, V] the logits after the inputs.
    last: [B·N] the position of the last token of each input.
    fronts: the keys and values of all before the first generated token.
    scaling: of [B·N] rows.
  """

  module: nn.Module = dataclasses.field(metadata={'static': True})
  first: Array
  last: Array
  fronts: list[Front]
  scaling: Scaling | None

  def __call__(self, params: Mapping[str, Any], ids: Array, index: Array, cache: Own) -> tuple[Array, Own]:
    """Returns the logits [B, N, V] after the newest tokens [B, N], and the cache with them, see `decoding`."""
    places = jnp.arange(cache[0].shape[4])
    # The first step's logits come from `prefill`; later, place i of the cache holds the i-th generated token.
    keys, values, *state = joined(cache)
    grown = Front(keys, values, hide((places > 0) & (places < index))[None, None, None, :],
                  self.last[:, None] + places)
    logits, own = self.module.apply({'params': params}, ids.reshape(-1), self.last + index, [*self.fronts, grown],
                                    self.scaling, *state, method='decode_next')
    logits = jnp.where(index == 0, self.first, logits)
    return logits.reshape(*ids.shape, -1), written(cache, own, index)
