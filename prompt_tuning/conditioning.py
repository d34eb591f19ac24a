"""What may be handed to a frozen model while it runs.

A tuning method makes a `Conditioning` out of its trained tensors, a model reads it. The model knows no
method and the method knows no model.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from prompt_tuning.types import Array


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
class StackConditioning:
  """What one stack (an encoder or a decoder) is handed.

  Attributes:
    prompt: [N, P, D] vectors for the prompt positions of the layout.
    visibility: what the prompt positions see.
  """

  prompt: Array | None = None
  visibility: Visibility = dataclasses.field(default=Visibility(), metadata={'static': True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Conditioning:
  """What a whole model is handed. Every field is optional.

  Attributes:
    encoder: for the encoder stack.
    decoder: for the decoder stack.
    parameters: retrained copies of frozen parameters, as `tuning.retrained` stores them: stacked path ->
      [L or chosen layers, ...].
    layers: the layers that the copies of a path stand for; a path that is absent here is replaced whole.
  """

  encoder: StackConditioning = StackConditioning()
  decoder: StackConditioning = StackConditioning()
  parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  layers: Mapping[str, tuple[int, ...]] = dataclasses.field(
    default_factory=dict, metadata={'static': True})
