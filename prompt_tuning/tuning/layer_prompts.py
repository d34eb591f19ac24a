"""Layer prompts: vectors that stand at the input of every layer's attention, for causal models (Petrov et al. 2023).

  x_l[:P] = p_l before the attention of layer l, so K_l = W_K norm_l(p_l) and V_l = W_V norm_l(p_l);   φ = {p_l}.

What a layer makes of the prompt's positions is replaced by the next layer's vectors, so keys and values are all that is
left of them: they are computed once a step and stand in front of every row. A prefix trains keys and values themselves;
these vectors are confined to what the frozen weights can make.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.conditioning import Conditioning, Frozen, StackConditioning
from prompt_tuning.layouts import Layout
from prompt_tuning.types import Array, Params

NAME = 'decoder/layer_prompts/vectors'


@dataclasses.dataclass(frozen=True)
class LayerPrompts:
  """The method: P vectors for every layer of a causal model.

  Attributes:
    length: P.
    init: first values, a function `(key, shape) -> array` with shape [L, P, D].
  """

  length: int = 10
  init: Any = nn.initializers.normal(1.0)

  def layout(self) -> Layout:
    """Returns the plain layout: the vectors take no place in the rows."""
    return Layout()

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: `decoder/layer_prompts/vectors` [L, P, D].

    Raises:
      ValueError: the model has an encoder.
    """
    if model.prompted != 'decoder':
      raise ValueError('Layer prompts replace the input of attention in causal models, but this model has an encoder. '
                       'Choose a prefix, or a model with a decoder alone.')
    layers, _, _ = model.prefix_shapes()['decoder']
    return {'decoder': {'layer_prompts': {'vectors': self.init(key, (layers, self.length, model.width))}}}

  def condition(self, trained: Params) -> Conditioning:
    """Hands the vectors over as [L, 1, P, D]."""
    return layer_prompts({NAME: trained['decoder']['layer_prompts']['vectors']})


def layer_prompts(named: Mapping[str, Any]) -> Conditioning:
  """Returns the Conditioning of vectors [L, P, D] by their name in files."""
  return Conditioning(decoder=StackConditioning(layer_prompts=jnp.asarray(named[NAME])[:, None]))


def check_layer_prompts(vectors: Array, model: Frozen) -> None:
  """Compares vectors [L, P, D] with what a model takes.

  Raises:
    ValueError: they are of another model.
  """
  layers, _, _ = model.prefix_shapes()['decoder']
  if model.prompted != 'decoder' or vectors.ndim != 3 or vectors.shape[::2] != (layers, model.width):
    raise ValueError(f'{NAME} has shape {tuple(vectors.shape)}, for a model with a decoder alone, of so many layers '
                     f'and that width; this one has {layers} decoder layers of width {model.width} and is prompted in '
                     f'the {model.prompted}. Choose the model that they were trained for.')
