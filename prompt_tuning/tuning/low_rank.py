"""Low-rank updates (LoRA, Hu et al. 2021): the product of two thin matrices is added to each chosen weight matrix.

  θ'_name = θ_name + down · up,    down [in, r], up [r, out], up = 0 at first; φ = {down, up}.

More expressive than a prompt if the model must learn something new. A dense layer computes x·θ + (x·down)·up, so θ is
neither copied nor differentiated, and an update of a bfloat16 or 8-bit θ is not rounded away. Other matrices
(embeddings, position biases) are summed once per step, in float32.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from prompt_tuning import trees
from prompt_tuning.checks import check_fields
from prompt_tuning.rows.conditioning import Conditioning, Frozen, LowRankUpdate
from prompt_tuning.tuning.method import Method
from prompt_tuning.tuning.retrained import chosen
from prompt_tuning.types import Array, Flat, Params

_PARTS = ('down', 'up')


@dataclasses.dataclass(frozen=True)
class LowRank(Method):
  """The method: updates of rank r to matrices chosen by name.

  Attributes:
    rank: r.
    patterns: regular expressions, each matched against whole names, layer by layer, such as
      `decoder/layers_3/self_attention/query/kernel`. A single pattern may be a string.
    init: initialiser of `down`, a function `(key, shape) -> array` with shape [in, r].

  Raises:
    ValueError: the rank is below 1, or a pattern is not a regular expression.
  """

  learning_rate: ClassVar[float] = 0.003

  rank: int = 1
  patterns: Sequence[str] | str = ('.*attention/.*/kernel',)
  init: Any = nn.initializers.lecun_normal()

  def __post_init__(self) -> None:
    check_fields(self)
    object.__setattr__(self, 'patterns', trees.patterns(self.patterns))
    if self.rank < 1:
      raise ValueError(f'Low-rank updates got rank={self.rank}. Use at least 1.')

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: `<name>/down` [in, r] and `<name>/up` [r, out] for every matched name.

    Raises:
      ValueError: a pattern matches nothing, or a parameter that is not a matrix.
    """
    trained = {}
    for i, (name, value) in enumerate(chosen(self.patterns, model).items()):
      if len(value.shape) != 2:
        raise ValueError(f'{name} has shape {tuple(value.shape)}, but low-rank updates need matrices'
                         f'{", not those of several experts" if len(value.shape) == 3 else ""}. Narrow the patterns, '
                         'for example to .*attention/.*/kernel.')
      trained[f'{name}/down'] = self.init(jax.random.fold_in(key, i), (value.shape[0], self.rank))
      trained[f'{name}/up'] = jnp.zeros((self.rank, value.shape[1]))
    return trees.unflatten(trained)

  def condition(self, trained: Params, model: Frozen) -> Conditioning:
    """Returns the updates as conditioning, under the names of the matrices that they are added to."""
    del model
    named = trees.flatten(trained)
    owners = dict.fromkeys(name.rpartition('/')[0] for name in named)
    return Conditioning(parameters={
      owner: LowRankUpdate(*(jnp.asarray(named[f'{owner}/{part}']) for part in _PARTS)) for owner in owners})

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns True for names that end in `/down` and `/up`."""
    return name.rpartition('/')[2] in _PARTS

  @classmethod
  def read(cls, tensors: Flat, about: Mapping[str, Any]) -> 'LowRank':
    """Returns the method for the parts of updates."""
    owners = dict.fromkeys(name.rpartition('/')[0] for name in tensors)
    missing = [f'{owner}/{part}' for owner in owners for part in _PARTS if f'{owner}/{part}' not in tensors]
    if missing:
      raise ValueError(f'The file lacks {missing[0]}, the other part of a low-rank update. Save it again.')
    return cls(rank=next(array.shape[-1] for name, array in tensors.items() if name.endswith(_PARTS[0])),
               patterns=tuple(map(re.escape, owners)))
