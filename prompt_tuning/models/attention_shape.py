"""The shape of a layer's attention, if it differs between the layers of a stack."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class AttentionShape:
  """Heads of keys and values, and what they are made of.

  Attributes:
    head_dim: K.
    kv_heads: the number of KV heads.
    keys_are_values: values are the outputs of the key's dense layer, before its norm (Gemma 4).
  """

  head_dim: int
  kv_heads: int
  keys_are_values: bool = False

  def around(self, other: 'AttentionShape') -> 'AttentionShape':
    """Returns the smallest shape that holds keys and values of both: heads are repeated, and end with zeros."""
    return AttentionShape(max(self.head_dim, other.head_dim), math.lcm(self.kv_heads, other.kv_heads))
