"""What may be handed to a frozen model while it runs, and what makes it.

A tuning method makes a `Conditioning` of its trained tensors and a model reads it. The model knows no method, and the
method knows no model beyond its `Facts`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from prompt_tuning.types import Array, Batch, Params


@dataclasses.dataclass(frozen=True)
class Visibility:
  """What the prompt's positions may attend to, beside themselves. The input always sees the prompt.

  Attributes:
    input: the prompt sees the input (published prompts were trained so).
    prompt: the prompt's vectors see one another.
  """

  input: bool = True
  prompt: bool = True


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
  """What a causal model has made of a text: it stands before everything else, which sees it as if in one row with it.

  Everything behind it sees it, whatever a prompt's visibility says of the input.

  Attributes:
    keys: [L, B, kv_heads, S, K], one row of texts for each row of a batch, or one for all.
    values: as `keys`.
    seen: [B, S] booleans, where the text stands; the others are padding.
  """

  keys: Array
  values: Array
  seen: Array

  @classmethod
  def of_batch(cls, batch: Batch) -> 'Context | None':
    """Returns the texts before a batch's rows, whose keys and values there are [B, L, …]; None where there are none."""
    if 'context' not in batch:
      return None
    found = batch['context']
    return cls(found['keys'].swapaxes(0, 1), found['values'].swapaxes(0, 1), found['seen'])

  def take(self, rows: Any) -> 'Context':
    """Returns the texts of some rows; one that all rows share stays as it is."""
    if self.keys.shape[1] == 1:
      return self
    return Context(self.keys[:, rows], self.values[:, rows], self.seen[rows])

  def as_prefix(self) -> tuple[Array, Array]:
    """Returns keys and values [L, P, kv_heads, K] of one text, which a prefix may start from.

    Raises:
      ValueError: there are several texts.
    """
    if self.keys.shape[1] != 1:
      raise ValueError(f'A prefix starts from one text, but the context has {self.keys.shape[1]}. Choose one with '
                       '`take`, or read one alone.')
    return tuple(array[:, 0].swapaxes(1, 2)[:, self.seen[0]] for array in (self.keys, self.values))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StackConditioning:
  """What one stack (an encoder or a decoder) is handed.

  Attributes:
    prompt: [N, P, D] vectors for the prompt positions of the layout.
    visibility: what the prompt positions see.
    prefix: keys and values [L, N, kv_heads, P, K] in front of every layer's own in self-attention.
    memory_prefix: the same in front of what a decoder reads of an encoder.
    layer_prompts: [L, N, P, D], what stands at the input of every layer's attention in front of a causal stack.
    added: [L - 1, N, P, D], added to the prompt at the input of every layer but the first, which reads `prompt`.
    context: a text that was read before, in front of a causal stack.
    lengths: [N], how many of the P each of several prompts or prefixes has; None is P.
  """

  prompt: Array | None = None
  visibility: Visibility = dataclasses.field(default=Visibility(), metadata={'static': True})
  prefix: tuple[Array, Array] | None = None
  memory_prefix: tuple[Array, Array] | None = None
  layer_prompts: Array | None = None
  added: Array | None = None
  context: Context | None = None
  lengths: Array | None = None

  def given(self) -> list[str]:
    """Returns the names of what is handed over."""
    return [name for name in ('prompt', 'prefix', 'memory_prefix', 'layer_prompts', 'added', 'context')
            if getattr(self, name) is not None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRankUpdate:
  """What is added to a frozen matrix [in, out]: down · up.

  Attributes:
    down: [in, r].
    up: [r, out].
  """

  down: Array
  up: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditioning:
  """What a whole model is handed. Every field is optional.

  Attributes:
    encoder: for the encoder stack.
    decoder: for the decoder stack.
    parameters: retrained copies of frozen parameters, or `LowRankUpdate`s to them, by the checkpoint's names, layer by
      layer.
  """

  encoder: StackConditioning = StackConditioning()
  decoder: StackConditioning = StackConditioning()
  parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def behind(self, context: Context | None) -> 'Conditioning':
    """Returns the same with a text before it that a decoder-only model has read."""
    return self if context is None else dataclasses.replace(
      self, decoder=dataclasses.replace(self.decoder, context=context))


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known of a frozen model without its weights.

  Attributes:
    family: such as 't5' or 'llama'.
    width: D.
    layers: L of each stack, the encoder's first.
    vocabulary: V, rows of the embedding.
    prompted: the stack that prompts belong to: 'encoder', or 'decoder' if there is no other.
    attentions: name of each attention (encoder, decoder, cross) -> layers, heads of keys and values, and their width.
  """

  family: str
  width: int
  layers: tuple[int, ...]
  vocabulary: int
  prompted: str
  attentions: Mapping[str, tuple[int, int, int]]

  def prefix_shapes(self) -> Mapping[str, tuple[int, int, int]]:
    """Returns `attentions`."""
    return self.attentions

  def made_for(self) -> dict[str, Any]:
    """Returns what files say of the model that they were made for."""
    return {'family': self.family, 'width': self.width, 'layers': list(self.layers), 'vocabulary': self.vocabulary}


class Frozen(Protocol):
  """What a method may ask of the frozen model: its facts, and when it makes its first values also its weights.

  Attributes:
    width: D.
    prompted: the stack that prompts belong to: 'encoder', or 'decoder' if there is no other.
    params: the frozen parameters, layers stacked; `Facts` have none.
  """

  width: int
  prompted: str
  params: Params

  def prefix_shapes(self) -> Mapping[str, tuple[int, int, int]]:
    """Returns layers, heads of keys and values, and their width for each attention: encoder, decoder, cross."""
