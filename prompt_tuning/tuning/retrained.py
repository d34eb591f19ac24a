"""Retrained parameters: copies of the frozen parameters whose names match regular expressions.

  θ' = θ with θ'_name = φ_name for every matched name; only φ is trained.

The pattern `.*` is full fine-tuning or pretraining, `.*layer_norm.*` trains only the norms (Lu et al. 2021). The copies
cost memory: with Adam, two more copies of each matched tensor. If a few vectors suffice, prefer a prompt.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from absl import logging

from prompt_tuning import trees
from prompt_tuning.checks import check_fields
from prompt_tuning.names import nearest
from prompt_tuning.rows.conditioning import Conditioning, Frozen
from prompt_tuning.tuning.method import Method
from prompt_tuning.types import Array, Flat, Params


@dataclasses.dataclass(frozen=True)
class Retrained(Method):
  """The method: parameters chosen by name are trained, starting from the frozen ones.

  Attributes:
    patterns: regular expressions, each matched against whole names, layer by layer, such as
      `encoder/layers_3/mlp/wo/kernel`. A single pattern may be a string.

  Raises:
    ValueError: a pattern is not a regular expression.
  """

  learning_rate: ClassVar[float] = 0.001

  patterns: Sequence[str] | str = ('.*',)

  def __post_init__(self) -> None:
    check_fields(self)
    object.__setattr__(self, 'patterns', trees.patterns(self.patterns))

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns copies of the matched parameters under the checkpoint's names.

    Raises:
      ValueError: a pattern matches nothing.
    """
    del key
    copies = chosen(self.patterns, model).items()
    return trees.unflatten({name: jnp.array(value, jnp.float32) for name, value in copies})

  def condition(self, trained: Params, model: Frozen) -> Conditioning:
    """Returns the copies as conditioning."""
    del model
    return Conditioning(parameters=trees.flatten(trained))

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns True: names that no other method owns are the checkpoint's parameter names."""
    return True

  @classmethod
  def read(cls, tensors: Flat, about: Mapping[str, Any]) -> 'Retrained':
    """Returns the method for copies of parameters."""
    return cls(tuple(map(re.escape, tensors)))


def chosen(patterns: Sequence[str], model: Frozen) -> Flat:
  """Returns the frozen parameters whose names match, layer by layer.

  Raises:
    ValueError: a pattern matches nothing.
  """
  named = trees.unstack(trees.flatten(model.params))
  for pattern in patterns:
    found = [name for name in named if trees.matches(name, [pattern])]
    if not found:
      raise ValueError(f'The pattern {pattern!r} matches no parameter.{nearest(pattern, named)} '
                       'Use a pattern that matches a whole name, as listed in model-info.txt.')
    logging.info('%r matches %d parameters', pattern, len(found))
  return {name: value for name, value in named.items() if trees.matches(name, patterns)}
