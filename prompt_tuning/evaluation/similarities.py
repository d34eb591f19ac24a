"""Similarities among prompts of one model: prompts of tasks that help one another are alike (Vu et al. 2022, SPoT).

  mean(A, B) = cos(1/P Σ_i a_i, 1/Q Σ_j b_j)
  best(A, B) = ½ (1/P Σ_i max_j cos(a_i, b_j) + 1/Q Σ_j max_i cos(a_i, b_j))

The order of a prompt's vectors has no influence, and lengths may differ. Prompts from one start stay alike, whatever
they have learnt: compare prompts whose starts were drawn in one way.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import logging

from prompt_tuning.evaluation.nearest_words import unit
from prompt_tuning.evaluation.saved import SavedPrompt, Trained


def similarities(prompts: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns the similarities among N prompts, -1 to 1: 'mean' and 'best' [N, N], see the top of this file.

  Args:
    prompts: name -> an array [P, D], or the result of `load_prompt` or `load_trained`.

  Raises:
    ValueError: there is no prompt, one has no vectors among embedded tokens, or they have different widths.
  """
  rows = vectors_of(prompts)
  means = unit(jnp.stack([each.mean(0) for each in rows.values()]))
  units = [unit(each) for each in rows.values()]
  cosines = lambda a, b: np.asarray(jnp.matmul(a, b.T, precision='highest'), np.float64)
  best = lambda found: (found.max(1).mean() + found.max(0).mean()) / 2
  return {'mean': cosines(means, means), 'best': np.array([[best(cosines(a, b)) for b in units] for a in units])}


def vectors_of(prompts: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the vectors [P, D] of prompts by name; raises as `similarities` does."""
  if not prompts:
    raise ValueError('There are no prompts to compare. Give at least one.')
  found, weights = {}, {}
  for name, prompt in prompts.items():
    saved = prompt.prompt() if isinstance(prompt, Trained) else prompt
    if saved is None:
      held = ', '.join(sorted(getattr(prompt, 'tensors', ()))[:3]) or 'nothing'
      raise ValueError(f'{name} has no vectors among embedded tokens, which alone are compared: it holds {held}. Leave '
                       'it out.')
    try:
      vectors = jnp.asarray(getattr(saved, 'vectors', saved), jnp.float32)
    except (TypeError, ValueError) as error:
      raise ValueError(f'{name} is of type {type(saved).__name__}, expected an array [P, D], or the result of '
                       'load_prompt or load_trained.') from error
    if vectors.ndim != 2 or not vectors.size:
      raise ValueError(f'{name} has the shape {tuple(vectors.shape)}, expected [P, D].')
    if isinstance(saved, SavedPrompt):
      weights.setdefault(saved.about.get('weights'), name)
    found[name] = vectors
  first = next(iter(found))
  for name, vectors in found.items():
    if vectors.shape[1] != found[first].shape[1]:
      raise ValueError(f'{name} has vectors of width {vectors.shape[1]}, but {first} of {found[first].shape[1]}. Only '
                       'prompts of one model can be compared.')
  told = [name for digest, name in weights.items() if digest is not None]
  if len(told) > 1:
    logging.warning('%s were trained for different weights: similarities between prompts of different models mean '
                    'little.', ' and '.join(told))
  return found
