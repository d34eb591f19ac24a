"""Layer prompts: vectors at P positions before the text, at the input of every layer (Petrov et al. 2023).

  replace   x_l[:P] = p_l                       so K_l = W_K norm_l(p_l) and V_l = W_V norm_l(p_l)
  add       x_0[:P] = p_0, x_l[:P] = f_{l-1}(x_{l-1})[:P] + p_l                                φ = {p_l}

With `replace`, for causal models, a layer's outputs at the prompt's positions are dropped, so only keys and values
remain: they are computed once per step and come before every row. A prefix trains keys and values directly; here they
are limited to what the frozen weights can produce. With `add`, for every model, the vectors are a prompt that is
adjusted at every layer.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning.checks import check_fields
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
    init: initialiser, a function `(key, shape) -> array` with shape [L, P, D].
    mode: 'replace', or 'add' (the only one for an encoder); see the module docstring.
  """

  length: int = 10
  init: Any = nn.initializers.normal(1.0)
  mode: str = 'replace'

  def __post_init__(self) -> None:
    check_fields(self)
    if self.mode not in MODES:
      raise ValueError(f'Layer prompts got mode={self.mode!r}. Use one of {", ".join(MODES)}.')

  def layout(self) -> Layout:
    """Returns a layout with a position for every vector; with `replace`, the plain one behind keys and values."""
    return Layout(self.length) if self.mode == 'add' else Layout(prefixed=True)

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: `decoder/layer_prompts/vectors` [L, P, D], or the same in the encoder.

    Raises:
      ValueError: the mode is 'replace' and the model has an encoder, whose positions see later ones, so that keys and
        values cannot be computed before the row.
    """
    if model.prompted != 'decoder' and self.mode == 'replace':
      raise ValueError("Layer prompts with mode='replace' need a causal model, but this model has an encoder. "
                       "Use mode='add', a prefix, or a decoder-only model.")
    _require_one_width(model)
    layers = model.facts.layers[0]  # of the stack that prompts belong to
    return {model.prompted: {'layer_prompts': {'vectors': self.init(key, (layers, self.length, model.width))}}}

  def condition(self, trained: Params, model: Frozen) -> Conditioning:
    """Returns the vectors as conditioning; with 'add', those of the first layer are a prompt."""
    (stack, tree), = trained.items()
    vectors = jnp.asarray(tree['layer_prompts']['vectors'])
    layers = model.facts.layers[0]  # of the stack that prompts belong to
    _require_one_width(model)
    fits = vectors.ndim == 3 and vectors.shape[::2] == (layers, model.width) and stack == model.prompted
    if not fits or (self.mode == 'replace' and model.prompted != 'decoder'):
      raise ValueError(f'{NAMES[stack]} has shape {tuple(vectors.shape)} (layers, length, width) and '
                       f'mode={self.mode!r}, but this model takes prompts in the {model.prompted}, which has {layers} '
                       f'layers of width {model.width}. Choose the model that they were trained for.')
    vectors = vectors[:, None]
    return Conditioning(**{stack: StackConditioning(prompt=vectors[0], added=vectors[1:]) if self.mode == 'add'
                           else StackConditioning(layer_prompts=vectors)})

  def describe(self) -> dict[str, Any]:
    """Returns the description that every method has, and the mode."""
    return super().describe() | {'mode': self.mode}

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns True for the names of `NAMES`."""
    return name in NAMES.values()

  @classmethod
  def read(cls, tensors: Flat, about: Mapping[str, Any]) -> 'LayerPrompts':
    """Returns the method for vectors [L, P, D] of one stack; an encoder supports only 'add'."""
    if len(tensors) > 1:
      raise ValueError(f'The file holds {", ".join(sorted(tensors))}, but a model takes prompts in one stack. Give a '
                       'file with one of them.')
    ((name, vectors),) = tensors.items()
    mode = about.get('mode', 'add' if name == NAMES['encoder'] else 'replace')
    return cls(length=vectors.shape[1] if vectors.ndim == 3 else 1, mode=mode)


def _require_one_width(model: Frozen) -> None:
  if model.facts.layer_width:
    raise ValueError(f'Layer prompts cannot be used: the layers of this model have width {model.facts.layer_width}, '
                     f'but vectors at its input {model.width}. Use a prompt or a prefix.')
