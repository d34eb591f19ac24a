"""The kinds of layers in one stack: what a layer of a kind has, and how the stack is cut into parts and groups.

A stack has one part, or two if its last layers read the keys and values of earlier ones (Gemma 4):

    layers          those with keys and values of their own
    shared_layers   those that read the keys and values of the last layer of the same shape in the first part

Each part is a scan over groups of layers, the shortest that repeat in it.
"""

import dataclasses
import functools

from prompt_tuning.models.attention_shape import AttentionShape
from prompt_tuning.models.stack_config import StackConfig, mlp_names, self_attention_name


@dataclasses.dataclass(frozen=True)
class Kind:
  """The kind of a layer.

  Attributes:
    delta: it has the gated delta rule in place of self-attention.
    wide: its attention has the shape `StackConfig.wide`.
    shared: it reads the keys and values of an earlier layer.
  """

  delta: bool = False
  wide: bool = False
  shared: bool = False

  @property
  def stores(self) -> bool:
    """Whether the layer has keys and values of its own."""
    return not self.delta and not self.shared


@dataclasses.dataclass(frozen=True)
class Part:
  """Consecutive layers that are one scan.

  Attributes:
    name: of their parameters.
    first: the number of the first layer.
    kinds: of each layer.
    whole: the part is the whole stack.
  """

  name: str
  first: int
  kinds: tuple[Kind, ...]
  whole: bool = True

  @property
  def group(self) -> tuple[Kind, ...]:
    """The kinds of the shortest group that the part repeats; one layer if all are alike."""
    count = len(self.kinds)
    sizes = (size for size in range(1, count + 1) if not count % size)
    return next(self.kinds[:size] for size in sizes if self.kinds[:size] * (count // size) == self.kinds)

  @property
  def alike(self) -> bool:
    """Whether all layers of the stack are of one kind: their parameters are not those of a group."""
    return self.whole and len(self.group) == 1

  def member(self, place: int) -> str:
    """Returns the name of the parameters of the layer at a place in the group: `trees.layer_number` reads it."""
    return f'{self.first + place}_of_{len(self.group)}'


def kinds_of(config: StackConfig) -> tuple[Kind, ...]:
  """Returns the kind of each layer of a stack."""
  own, none = config.layers - config.shared_layers, (False,) * config.layers
  return tuple(Kind(delta, wide, number >= own) for number, (delta, wide) in enumerate(
    zip(config.delta_layers or none, config.wide_layers or none, strict=True)))


def parts_of(config: StackConfig) -> list[Part]:
  """Returns the parts of a stack, in their order."""
  kinds, own = kinds_of(config), config.layers - config.shared_layers
  if not config.shared_layers:
    return [Part('layers', 0, kinds)]
  return [Part('layers', 0, kinds[:own], whole=False), Part('shared_layers', own, kinds[own:], whole=False)]


def stored_shape(config: StackConfig) -> AttentionShape:
  """Returns the common shape of all layers' keys and values: prefixes, caches and contexts have it."""
  first, *others = {attention_shape(config, kind) for kind in kinds_of(config) if kind.stores}
  return functools.reduce(AttentionShape.around, others, first)


def state_shapes(config: StackConfig) -> tuple[tuple[int, int, int], tuple[int, int, int]] | None:
  """Returns layers, heads and head width of the keys, and of the values, of the delta layers, if there are any."""
  shape, layers = config.delta, sum(config.delta_layers)
  return shape and ((layers, shape.key_heads, shape.key_dim), (layers, shape.value_heads, shape.value_dim))


def attention_shape(config: StackConfig, kind: Kind) -> AttentionShape:
  """Returns the shape of a layer's self-attention."""
  return config.wide if kind.wide else AttentionShape(config.head_dim, config.kv_heads or config.heads)


def mlp_width(config: StackConfig, kind: Kind) -> int:
  """Returns F of a layer."""
  return config.shared_mlp_dim if kind.shared and config.shared_mlp_dim else config.mlp_dim


def dense_of(config: StackConfig, kind: Kind) -> dict[str, tuple[int, int]]:
  """Returns the name of each dense layer that a layer of a kind has -> the widths of its input and output."""
  width, shapes = config.width, {}
  if kind.delta:
    shapes |= {f'delta_attention/{part}': size for part, size in config.delta.dense(width).items()}
  else:
    shape = attention_shape(config, kind)
    heads, read = config.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sources = {self_attention_name(config): width}
    if config.cross and not config.merged:
      sources['encoder_decoder_attention'] = config.memory_width or width
    for name, source in sources.items():
      parts = {'query': (width, heads), 'key': (source, read), 'value': (source, read), 'gate': (width, heads),
               'out': (heads, width)}
      absent = {'gate'} if not config.output_gate else set()
      absent |= {'key', 'value'} if kind.shared else {'value'} if shape.keys_are_values else set()
      shapes |= {f'{name}/{part}': size for part, size in parts.items() if part not in absent}
  hidden = mlp_width(config, kind)
  return shapes | {f'mlp/{name}': (width, hidden) for name in mlp_names(config)} | {'mlp/wo': (hidden, width)}


def dense_shapes(config: StackConfig, stack: str) -> dict[str, tuple[int, int, int]]:
  """Returns the name of each dense layer of a stack's layers -> how many have it, its widths of input and output.

  If its widths differ between layers, they are the largest.
  """
  found: dict[str, list[tuple[int, int]]] = {}
  for kind in kinds_of(config):
    for name, size in dense_of(config, kind).items():
      found.setdefault(name, []).append(size)
  return {f'{stack}/{name}': (len(sizes), *map(max, zip(*sizes, strict=True))) for name, sizes in found.items()}

