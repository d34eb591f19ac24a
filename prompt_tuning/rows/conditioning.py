"""The interface between tuning methods and frozen models.

A tuning method makes a `Conditioning` from its trained tensors, and a model reads it. The model knows no methods, and
the method knows nothing of the model except its `Facts`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from prompt_tuning.types import Array, Batch, Params

# Field of a StackConditioning that rows of one batch may set differently -> the axes of N and P in its arrays.
AXES: Mapping[str, tuple[int, int]] = {
  'prompt': (0, 1), 'prefix': (1, 3), 'memory_prefix': (1, 3), 'state_prefix': (1, 3), 'layer_prompts': (1, 2),
  'added': (1, 2)}


@dataclasses.dataclass(frozen=True)
class Visibility:
  """What the prompt's positions may attend to, in addition to themselves. The input always sees the prompt.

  Attributes:
    input: the prompt sees the input (as in training of published prompts).
    prompt: the prompt's vectors see one another.
  """

  input: bool = True
  prompt: bool = True


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """What a stack's delta layers keep of the positions so far, see `models.delta_rule`.

  Attributes:
    memory: [L, B, H, K, V] float32, of H value heads; one row may serve all.
    tails: [L, B, W - 1, width] three times, the last inputs of the convolutions of query, key and value.
  """

  memory: Array
  tails: tuple[Array, Array, Array]

  def rows(self, chosen: Any) -> 'State':
    """Returns the state of some rows."""
    return jax.tree.map(lambda array: array[:, chosen], self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
  """The cached keys and values of a text that a causal model has read; they come before everything else in a row.

  All later positions see the text as if it were in the same row, whatever a prompt's visibility.

  Attributes:
    keys: [L, B, kv_heads, S, K], one text for each row of a batch, or one for all.
    values: as `keys`.
    seen: [B, S] booleans: True for positions of the text, False for padding.
    state: of the delta layers after the text, if the model has any; keys and values are those of the other layers.
  """

  keys: Array
  values: Array
  seen: Array
  state: State | None = None

  @classmethod
  def of_batch(cls, batch: Batch) -> 'Context | None':
    """Returns the cached context of a batch, whose keys and values are [B, L, …]; None if it has none."""
    if 'context' not in batch:
      return None
    found = batch['context']
    return cls(found['keys'].swapaxes(0, 1), found['values'].swapaxes(0, 1), found['seen'])

  def take(self, rows: Any) -> 'Context':
    """Returns the texts of some rows; a text that all rows share is returned unchanged."""
    if self.keys.shape[1] == 1:
      return self
    return Context(self.keys[:, rows], self.values[:, rows], self.seen[rows], self.state and self.state.rows(rows))

  def as_prefix(self) -> tuple[Array, Array]:
    """Returns keys and values [L, P, kv_heads, K] of one text, to initialise a prefix.

    Raises:
      ValueError: there are several texts, or the model has delta layers, of which a prefix holds nothing.
    """
    if self.state is not None:
      raise ValueError('A context of a model with delta layers (Gated DeltaNet) cannot become a prefix: a prefix is '
                       'keys and values, but such layers keep a state. Use the context itself, or a prompt.')
    if self.keys.shape[1] != 1:
      raise ValueError(f'A prefix starts from one text, but the context has {self.keys.shape[1]}. Choose one with '
                       '`take`, or read only one text.')
    return tuple(array[:, 0].swapaxes(1, 2)[:, self.seen[0]] for array in (self.keys, self.values))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StackConditioning:
  """The conditioning of one stack (an encoder or a decoder).

  Attributes:
    prompt: [N, P, D] vectors for the prompt positions of the layout.
    visibility: the positions that the prompt sees.
    prefix: keys and values [L, N, kv_heads, P, K] before every layer's own keys and values in self-attention.
    memory_prefix: the same for a decoder's cross-attention to the encoder.
    state_prefix: keys [L, N, G, P, K] and values [L, N, H, P, V], whose products the delta layers' state holds before
      the rows.
    layer_prompts: [L, N, P, D], inputs of every layer's attention at positions before the rows of a causal stack.
    added: [L - 1, N, P, D], added to the prompt at the input of every layer but the first, which reads `prompt`.
    context: the cached context before the rows of a causal stack.
    lengths: field of `AXES` -> [N], the length of each of its N entries; 0 if a row does not have it. A field that is
      absent has P for all.
    scales: factors on inputs or outputs of dense layers, by their name within a layer ('self_attention/key/output',
      'mlp/wo/input') -> [L, N, width]; 1 for rows without them. Prefixes and cached contexts are not scaled.
  """

  prompt: Array | None = None
  visibility: Visibility = dataclasses.field(default=Visibility(), metadata={'static': True})
  prefix: tuple[Array, Array] | None = None
  memory_prefix: tuple[Array, Array] | None = None
  state_prefix: tuple[Array, Array] | None = None
  layer_prompts: Array | None = None
  added: Array | None = None
  context: Context | None = None
  lengths: Mapping[str, Array] = dataclasses.field(default_factory=dict)
  scales: Mapping[str, Array] | None = None

  def given(self) -> list[str]:
    """Returns the names of the fields that are set."""
    return [name for name in (*AXES, 'scales', 'context') if getattr(self, name) is not None]

  def longest(self, name: str) -> int:
    """Returns P of a field, or 0 if it is not set."""
    return next((array.shape[AXES[name][1]] for array in jax.tree.leaves(getattr(self, name))), 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRankUpdate:
  """An update of a frozen matrix [in, out]: down · up is added to it.

  Attributes:
    down: [in, r].
    up: [r, out].
  """

  down: Array
  up: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditioning:
  """The conditioning of a whole model. Every field is optional.

  Attributes:
    encoder: for the encoder stack.
    decoder: for the decoder stack.
    parameters: retrained copies of frozen parameters, or `LowRankUpdate`s to them, by the checkpoint's names, layer by
      layer.
    kinds: the fields that one row has ('decoder.prefix' and the like), for each kind of row; empty if all rows have all
      fields that are set.
    members: M, so many consecutive rows of a batch read one input, and their probabilities are averaged at each token.
  """

  encoder: StackConditioning = StackConditioning()
  decoder: StackConditioning = StackConditioning()
  parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  kinds: tuple[tuple[str, ...], ...] = dataclasses.field(default=(), metadata={'static': True})
  members: int = dataclasses.field(default=1, metadata={'static': True})

  def given(self) -> tuple[str, ...]:
    """Returns the fields of stacks that are set, 'decoder.prefix' and the like."""
    return tuple(f'{name}.{field}' for name in ('encoder', 'decoder') for field in getattr(self, name).given())

  def each_kind(self) -> tuple[tuple[str, ...], ...]:
    """Returns the fields that one row has, for each kind of row."""
    return self.kinds or (self.given(),)

  def behind(self, context: Context | None) -> 'Conditioning':
    """Returns this conditioning with a cached context of a decoder-only model before it."""
    return self if context is None else dataclasses.replace(
      self, decoder=dataclasses.replace(self.decoder, context=context))


@dataclasses.dataclass(frozen=True)
class Facts:
  """The properties of a frozen model that do not need its weights.

  Attributes:
    family: for example 't5' or 'llama'.
    width: D.
    layers: L of each stack, the encoder's first.
    vocabulary: V, the number of rows of the embedding.
    prompted: the stack that prompts belong to: 'encoder', or 'decoder' if there is no other.
    attentions: name of each attention (encoder, decoder, cross) -> layers, KV heads and head width.
    embedding_scale: factor on embedded tokens, and on prompts, which take the place of tokens.
    dense: name of each dense layer ('decoder/self_attention/key') -> layers, widths of its input and output.
    layer_width: width of the layers, if vectors at the input have another one (OPT 350m); 0 means `width`.
    state_shapes: layers, heads and head width of the keys, and of the values, that the delta layers' state holds; None
      if there are none.
  """

  family: str
  width: int
  layers: tuple[int, ...]
  vocabulary: int
  prompted: str
  attentions: Mapping[str, tuple[int, int, int]]
  embedding_scale: float = 1.0
  dense: Mapping[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
  layer_width: int = 0
  state_shapes: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None

  @property
  def facts(self) -> 'Facts':
    """This object: a method may be given a model or only its facts."""
    return self

  def prefix_shapes(self) -> Mapping[str, tuple[int, int, int]]:
    """Returns `attentions`."""
    return self.attentions

  def made_for(self) -> dict[str, Any]:
    """Returns the description of the model that files store."""
    return {'family': self.family, 'width': self.width, 'layers': list(self.layers), 'vocabulary': self.vocabulary}


class Frozen(Protocol):
  """The interface of a frozen model for methods: its facts and, for initialisation, its weights.

  Attributes:
    width: D.
    prompted: the stack that prompts belong to: 'encoder', or 'decoder' if there is no other.
    params: the frozen parameters, layers stacked; absent from `Facts`.
    facts: the properties that do not need the weights.
  """

  width: int
  prompted: str
  params: Params
  facts: Facts

  def prefix_shapes(self) -> Mapping[str, tuple[int, int, int]]:
    """Returns layers, KV heads and head width of each attention: encoder, decoder, cross."""
