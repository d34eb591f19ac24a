"""Layer prompts: vectors at P positions in front, for the input of every layer (Petrov et al. 2023).

  replace   x_l[:P] = p_l                       so K_l = W_K norm_l(p_l) and V_l = W_V norm_l(p_l)
  add       x_0[:P] = p_0, x_l[:P] = f_{l-1}(x_{l-1})[:P] + p_l                                φ = {p_l}

With `replace`, for causal models, what a layer makes of the prompt's positions is dropped, so keys and values are all
that is left of them: they are computed once a step and stand in front of every row. A prefix trains keys and values
themselves; these vectors are confined to what the frozen weights can make. With `add`, for every model, they are a
prompt that is helped along at every layer.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.rows.conditioning import Conditioning, Frozen, StackConditioning
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.tuning.method import Method
from prompt_tuning.types import Array, Flat, Params

# Stack -> the name of its tensor.
NAMES = {stack: f'{stack}/layer_prompts/vectors' for stack in ('encoder', 'decoder')}
MODES = ('replace', 'add')


@dataclasses.dataclass(frozen=True)
class LayerPrompts(Method):
  """The method: P vectors for every layer of a causal model, or of T5's encoder.

  Attributes:
    length: P.
    init: first values, a function `(key, shape) -> array` with shape [L, P, D].
    mode: 'replace', or 'add' (the only one for an encoder); see the top of this file.
  """

  length: int = 10
  init: Any = nn.initializers.normal(1.0)
  mode: str = 'replace'

  def __post_init__(self) -> None:
    if self.mode not in MODES:
      raise ValueError(f'The mode of layer prompts is {self.mode!r}. Choose one of {", ".join(MODES)}.')

  def layout(self) -> Layout:
    """Returns a layout with a place for every vector, or the plain one where their keys and values stand in front."""
    return Layout(self.length if self.mode == 'add' else 0)

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: `decoder/layer_prompts/vectors` [L, P, D], or the same in the encoder.

    Raises:
      ValueError: the model has an encoder, which sees what stands behind: no keys and values can be made before.
    """
    if model.prompted != 'decoder' and self.mode == 'replace':
      raise ValueError('Layer prompts replace the input of attention in causal models, but this model has an encoder. '
                       "Choose the mode 'add', a prefix, or a model with a decoder alone.")
    layers, _, _ = model.prefix_shapes()[model.prompted]
    return {model.prompted: {'layer_prompts': {'vectors': self.init(key, (layers, self.length, model.width))}}}

  def condition(self, trained: Params, model: Frozen) -> Conditioning:
    """Hands the vectors over, those of the first layer as a prompt if the others are added to it."""
    (stack, tree), = trained.items()
    vectors = jnp.asarray(tree['layer_prompts']['vectors'])
    layers, _, _ = model.prefix_shapes()[model.prompted]
    fits = vectors.ndim == 3 and vectors.shape[::2] == (layers, model.width) and stack == model.prompted
    if not fits or (self.mode == 'replace' and model.prompted != 'decoder'):
      raise ValueError(f'{NAMES[stack]} has shape {tuple(vectors.shape)} (layers, length, width) and the mode '
                       f'{self.mode!r}, but this model is prompted in the {model.prompted}, which has {layers} layers '
                       f'of width {model.width}. Choose the model that they were trained for.')
    vectors = vectors[:, None]
    return Conditioning(**{stack: StackConditioning(prompt=vectors[0], added=vectors[1:]) if self.mode == 'add'
                           else StackConditioning(layer_prompts=vectors)})

  def describe(self) -> dict[str, Any]:
    """Returns the mode besides what every method says."""
    return super().describe() | {'mode': self.mode}

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns True for the names of `NAMES`."""
    return name in NAMES.values()

  @classmethod
  def read(cls, tensors: Flat, about: Mapping[str, Any]) -> 'LayerPrompts':
    """Returns the method of vectors [L, P, D] of one stack; an encoder's have one mode."""
    if len(tensors) > 1:
      raise ValueError(f'The file holds {", ".join(sorted(tensors))}, but a model is prompted in one stack. Give a '
                       'file with one of them.')
    ((name, vectors),) = tensors.items()
    mode = about.get('mode', 'add' if name == NAMES['encoder'] else 'replace')
    return cls(length=vectors.shape[1] if vectors.ndim == 3 else 1, mode=mode)
