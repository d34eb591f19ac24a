"""Factored prompts: a prompt of rank r, the product of two trained matrices, of which only the product is exported.

  P = A · B,    A [P, r], B [r, D];    φ = {A, B}.

Decomposed prompts (Xiao et al. 2023, r = 10): `init` normal; a tenth of a prompt's parameters. Superposed prompts
(SadraeiJavaeri et al. 2024, r = 128): `init` sampled, so that B is rows of the embedding and every vector a mixture of
words; more parameters than a prompt if r exceeds P. A starts as a normal of variance 1/r, so that the vectors are as
large as B's rows. If neither the number of parameters nor the first steps matter, a prompt does as well.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from prompt_tuning.names import require_number
from prompt_tuning.rows.conditioning import Frozen
from prompt_tuning.tuning.method import fields_of
from prompt_tuning.tuning.prompt import PromptSettings, PromptTuning
from prompt_tuning.types import Array, Flat, Params


@dataclasses.dataclass(frozen=True)
class FactoredSettings(PromptSettings):
  """A factored prompt as plain values: those of a prompt, whose `init` is of the rows of B, and the rank.

  Attributes:
    rank: r, the number of rows that all vectors are mixtures of.
  """

  rank: int = 10

  def build(self, model: Any) -> 'Factored':
    """Returns the method for a model; `init` must be a function by then."""
    return Factored(**fields_of(super().build(model)), rank=self.rank)


@dataclasses.dataclass(frozen=True)
class Factored(PromptTuning):
  """The method: a prompt that is the product of two matrices.

  Attributes:
    prompt: the length of the prompt, and the initialiser of B [r, D].
    rank: r.

  Raises:
    ValueError: the rank is below 1.
  """

  Settings = FactoredSettings

  rank: int = 10

  def __post_init__(self) -> None:
    require_number('rank', self.rank, least=1, whole=True)

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: `encoder/prompt/factors/mixture` [P, r] and `…/rows` [r, D], or the same in the decoder.

    Raises:
      ValueError: the initialiser does not fit the model and the rank.
    """
    self.require_text(model)
    mixture = jax.random.normal(jax.random.fold_in(key, 1), (self.prompt.length, self.rank)) * self.rank**-0.5
    rows = jnp.asarray(self.prompt.prompt_init(key, (self.rank, model.width)), jnp.float32)
    return {model.prompted: {'prompt': {'factors': {'mixture': mixture, 'rows': rows}}}}

  def vectors(self, trained: Params) -> Array:
    """Returns A · B [P, D]; of a file, which has no factors, the prompt as it is."""
    (tree,) = trained.values()
    if 'factors' not in tree['prompt']:
      return super().vectors(trained)
    return tree['prompt']['factors']['mixture'] @ tree['prompt']['factors']['rows']

  def start(self, given: Flat, about: Mapping[str, Any], own: Flat) -> Flat:
    """Returns the factors of the nearest matrix of rank r to a given prompt, by its singular values."""
    (mixture, rows), (prompt,) = own, given.values()
    if np.shape(prompt) != (own[mixture].shape[0], own[rows].shape[1]):
      return given
    left, sizes, right = np.linalg.svd(np.asarray(prompt, np.float64), full_matrices=False)
    if (lost := float(np.sum(sizes[self.rank:]**2) / max(np.sum(sizes**2), 1e-30))) > 1e-6:
      logging.warning('Of the prompt to start from, %.1f %% (of the squared norm) do not fit into rank=%d.', 100 * lost,
                      self.rank)
    more = [(0, max(0, self.rank - len(sizes)))]
    halves = left * np.sqrt(sizes), np.sqrt(sizes)[:, None] * right
    return {mixture: np.pad(halves[0][:, :self.rank], [(0, 0), *more]),
            rows: np.pad(halves[1][:self.rank], [*more, (0, 0)])}

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns False: what is exported is a prompt."""
    return False
