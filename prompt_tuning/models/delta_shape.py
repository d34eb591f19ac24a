"""The shape of layers with the gated delta rule."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class DeltaShape:
  """The shape of delta layers (Gated DeltaNet), see `delta_rule`.

  Attributes:
    key_heads: G, heads of queries and keys.
    value_heads: heads of values, states and outputs, a multiple of G.
    key_dim: K.
    value_dim: V.
    taps: W, how many positions the convolution reads.
  """

  key_heads: int
  value_heads: int
  key_dim: int
  value_dim: int
  taps: int

  @property
  def sharing(self) -> int:
    """R, how many value heads share a query and key."""
    return self.value_heads // self.key_heads

  @property
  def widths(self) -> tuple[int, int, int]:
    """The widths of all heads' queries, keys and values."""
    keys = self.key_heads * self.key_dim
    return keys, keys, self.value_heads * self.value_dim

  def dense(self, width: int) -> dict[str, tuple[int, int]]:
    """Returns the name of each dense layer -> widths of its input and output, in a stack of this width."""
    keys, _, values = self.widths
    outputs = {'query': keys, 'key': keys, 'value': values, 'gate': values, 'rate': self.value_heads,
               'decay': self.value_heads}
    return {part: (width, size) for part, size in outputs.items()} | {'out': (values, width)}
