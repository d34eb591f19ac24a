"""Samplers, which choose the tokens of a generation: frozen dataclasses called with a decoding step."""

import dataclasses
from collections.abc import Callable
from typing import Any

from prompt_tuning.decoding.beam_search import beam_search
from prompt_tuning.decoding.sampling import greedy, temperature_sample
from prompt_tuning.names import Registry, require_number
from prompt_tuning.types import Array

Sampler = Callable[..., tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class Greedy:
  """Takes the most likely token at every step.

  Attributes:
    num_decodes: the number of sequences per input; must be 1.
  """

  num_decodes: int = 1

  def __call__(self, step: Any, cache: Any, key: Array, row_ids: Array, **shape: Any) -> tuple[Array, Array]:
    """Returns tokens [B, 1, S] and scores [B, 1], see `decoding.greedy`."""
    del key, row_ids
    if self.num_decodes != 1:
      raise ValueError(f'Greedy decoding returns one sequence, but got num_decodes={self.num_decodes}. '
                       'Use BeamSearch or Sampling for several.')
    return greedy(step, cache, **shape)


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Draws each token, see `decoding.temperature_sample`.

  Attributes:
    temperature: 0 is greedy.
    topk: draw among the k most likely tokens; 0 means all.
    topp: draw among the most likely tokens that together reach this probability; 0 means all.
    num_decodes: the number of sequences per input.
  """

  temperature: float = 1.0
  topk: int = 0
  topp: float = 0.0
  num_decodes: int = 1

  def __post_init__(self) -> None:
    require_number('temperature', self.temperature, least=0)
    require_number('topk', self.topk, least=0, whole=True)
    require_number('topp', self.topp, least=0, most=1)
    require_number('num_decodes', self.num_decodes, least=1, whole=True)

  def __call__(self, step: Any, cache: Any, key: Array, row_ids: Array, **shape: Any) -> tuple[Array, Array]:
    """Returns tokens [B, N, S] and scores [B, N]."""
    return temperature_sample(step, cache, key, row_ids=row_ids, **dataclasses.asdict(self), **shape)


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

  def __call__(self, step: Any, cache: Any, key: Array, row_ids: Array, **shape: Any) -> tuple[Array, Array]:
    """Returns tokens [B, N, S] and scores [B, N], best last."""
    return beam_search(step, cache, key, row_ids=row_ids, **dataclasses.asdict(self), **shape)


SAMPLERS: Registry = Registry('sampler', {'greedy': Greedy, 'sampling': Sampling, 'beam_search': BeamSearch})
