"""Samplers, which choose the tokens of a generation: beam search, or what chooses one token after the other."""

import dataclasses
from typing import Any

import jax

from prompt_tuning.decoding.beam_search import beam_search
from prompt_tuning.decoding.choose import Choose, Greedy, Sampling
from prompt_tuning.names import Registry, require_number
from prompt_tuning.types import Array

__all__ = ['SAMPLERS', 'BeamSearch', 'Greedy', 'Sampler', 'Sampling', 'require_sampler']


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class BeamSearch:
  """Keeps the best few sequences at every step, see `decoding.beam_search`.

  Attributes:
    num_decodes: the number of beams, and of sequences per input.
    alpha: strength of the length penalty.
    penalty: 't5x' or 'transformers', the form of penalty and stopping rule.
    early_stopping: the stopping rule of the transformers form.
    temperature: continuations are drawn at this temperature; 0 takes the best.
  """

  num_decodes: int = 1
  alpha: float = 0.6
  penalty: str = 't5x'
  early_stopping: bool | str = False
  temperature: float = 0.0

  def __post_init__(self) -> None:
    require_number('num_decodes', self.num_decodes, least=1, whole=True)
    require_number('alpha', self.alpha)
    require_number('temperature', self.temperature, least=0)
    if self.penalty not in ('t5x', 'transformers'):
      raise ValueError(f'penalty={self.penalty!r} cannot be used: expected t5x or transformers.')

  def search(self, step: Any, cache: Any, keys: Array, **settings: Any) -> tuple[Array, Array]:
    """Returns tokens [B, N, S] and scores [B, N], best last."""
    return beam_search(step, cache, keys, batch_size=len(keys), **dataclasses.asdict(self), **settings)


Sampler = Choose | BeamSearch
SAMPLERS: Registry = Registry('sampler', {'greedy': Greedy, 'sampling': Sampling, 'beam_search': BeamSearch})


def require_sampler(sampler: Any) -> None:
  """Raises ValueError if a value chooses no tokens."""
  if isinstance(sampler, type) or not (isinstance(sampler, BeamSearch) or callable(sampler)):
    raise ValueError(f'sampler={sampler!r:.80} cannot be used: expected Greedy(), Sampling(...), BeamSearch(...), or a '
                     '`Choose` of your own (prompt_tuning/decoding/choose.py).')
