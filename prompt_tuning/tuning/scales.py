"""Scales (IA3, Liu et al. 2022): trained factors on keys, values and the hidden layer of each MLP.

  k ← l_k ∘ k,  v ← l_v ∘ v,  h ← l_h ∘ h,    l = 1 at first; φ = {l of each layer}.

h is the input of an MLP's last product. Fewer parameters than a short prompt in small models, no positions in the rows,
and rows of one batch may have scales of their own. Less expressive than a low-rank update; keys and values that come
before the rows (prefixes, cached contexts) are not scaled.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from prompt_tuning import trees
from prompt_tuning.checks import check_fields
from prompt_tuning.names import nearest
from prompt_tuning.rows.conditioning import Conditioning, Facts, Frozen, StackConditioning
from prompt_tuning.tuning.method import Method
from prompt_tuning.types import Array, Flat, Params

PLACES = ('.*attention/key/output', '.*attention/value/output', '.*/mlp/wo/input')  # those of the paper
_STACKS, _SIDES = ('encoder', 'decoder'), ('input', 'output')


@dataclasses.dataclass(frozen=True)
class Scales(Method):
  """The method: a factor for each number of the chosen inputs and outputs of dense layers.

  Attributes:
    places: regular expressions, each matched against whole names of inputs and outputs of dense layers, such as
      `decoder/self_attention/key/output` or `encoder/mlp/wo/input`. A single one may be a string. Empty means the
      outputs of keys and values and the input of each MLP's last layer.

  Raises:
    ValueError: one is not a regular expression.
  """

  learning_rate: ClassVar[float] = 0.03

  places: Sequence[str] | str = ()

  def __post_init__(self) -> None:
    check_fields(self)
    object.__setattr__(self, 'places', trees.patterns(self.places) or PLACES)

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: ones, `decoder/scales/self_attention/key/output` [L, width] and the like.

    Raises:
      ValueError: a pattern matches nothing.
    """
    del key
    shapes = scale_shapes(model.facts)
    names = {_split(name)[0] + '/' + _split(name)[1]: name for name in shapes}
    for pattern in self.places:
      if not any(trees.matches(name, [pattern]) for name in names):
        raise ValueError(f'places={pattern!r} matches no input or output of a dense layer.{nearest(pattern, names)} '
                         f'Use a pattern that matches a whole name: {", ".join(names)}.')
    return trees.unflatten({tensor: jnp.ones(shapes[tensor]) for name, tensor in names.items()
                            if trees.matches(name, self.places)})

  def condition(self, trained: Params, model: Frozen) -> Conditioning:
    """Returns the scales as conditioning, [L, 1, width]."""
    shapes, stacks = scale_shapes(model.facts), {}
    for name, array in trees.flatten(trained).items():
      if name not in shapes or tuple(array.shape) != shapes[name]:
        needs = f'{list(shapes[name])} (layers, width)' if name in shapes else f'some of {", ".join(shapes)}'
        raise ValueError(f'{name} has shape {list(array.shape)}, but the model needs {needs}. Choose scales that were '
                         'trained for this model.')
      stack, place = _split(name)
      stacks.setdefault(stack, {})[place] = jnp.asarray(array)[:, None]
    return Conditioning(**{stack: StackConditioning(scales=scales) for stack, scales in stacks.items()})

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns True for `decoder/scales/self_attention/key/output` and the like."""
    return name.split('/')[1:2] == ['scales'] and name.split('/')[0] in _STACKS

  @classmethod
  def read(cls, tensors: Flat, about: Mapping[str, Any]) -> 'Scales':
    """Returns the method for scales [L, width]."""
    return cls(tuple('/'.join(_split(name)) for name in tensors))


def scale_shapes(facts: Facts) -> dict[str, tuple[int, int]]:
  """Returns the names of all tensors that scales of a model may have -> L and their width."""
  return {tensor_name(*name.split('/', 1), side): (layers, widths[side == 'output'])
          for name, (layers, *widths) in facts.dense.items() for side in _SIDES}


def tensor_name(stack: str, dense: str, side: str) -> str:
  """Returns the name of the scales of a dense layer's 'input' or 'output'."""
  return f'{stack}/scales/{dense}/{side}'


def _split(name: str) -> tuple[str, str]:
  """Returns stack and place of a tensor."""
  stack, _, place = name.split('/', 2)
  return stack, place
