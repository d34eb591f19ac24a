"""What lines of a run say: averages of its steps, the best evaluation, lengths; and whether it may stop."""

import collections
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from prompt_tuning.losses import averages
from prompt_tuning.training import run_files
from prompt_tuning.training.settings import Stop


def reached(stop: Stop | None, recent: collections.deque[tuple[Any, Any]]) -> bool:
  """Returns True if enough tokens of the last steps are correct, given pairs of correct and all tokens."""
  if stop is None or len(recent) < recent.maxlen:
    return False
  correct, count = (sum(map(float, each)) for each in zip(*recent, strict=True))
  return correct >= stop.accuracy * count


def best_of(best: Mapping[str, Any] | None) -> str:
  """Returns how a line names the best evaluation, if there is one."""
  judged = best is not None and best['objective'] != 'step'
  return f'; best step {best["step"]}, {best["objective"]} {best["value"]:.4g}' if judged else ''


def row_lengths(batch: Any) -> str:
  """Returns the lengths of a batch's rows, for a line."""
  return ' and '.join(str(batch[stack]['tokens'].shape[1]) for stack in ('encoder', 'decoder') if stack in batch)


def averaged(pending: list[dict[str, Any]], step: int, model_dir: str) -> dict[str, float]:
  """Returns the averages since the last line; stops the run if a figure is not finite."""
  sums = jax.device_get(pending)
  found = first_diverged(sums)
  if found is not None:
    at, told = found
    kept = run_files.saved_steps(model_dir)
    where = (f'The last good state is {os.path.dirname(run_files.checkpoint_path(model_dir, kept[-1]))}.'
             if kept else 'No state had been saved yet.')
    raise FloatingPointError(f'Training diverged at step {step - len(sums) + at + 1}: {told}. {where} '
                             'Lower the learning rate, or check the data of that step.')
  return means(sums)


def first_diverged(sums: Sequence[Mapping[str, Any]]) -> tuple[int, str] | None:
  """Returns which of the steps is the first with a figure that is not finite, and its figures as a text."""
  watched = {'loss': 'loss', 'gradient_norm': 'gradient norm', 'trained_norm': 'norm of the trained tensors'}
  for i, each in enumerate(sums):
    if not all(np.isfinite(each[name]) for name in watched):
      return i, ', '.join(f'{text} {float(each[name]):.4g}' for name, text in watched.items())
  return None


def means(sums: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Returns the averages of steps, and the sums of their examples and tokens."""
  total = {name: float(sum(each[name] for each in sums)) for name in sums[0]}
  averages_of_steps = {name: total[name] / len(sums) for name in ('penalty', 'gradient_norm') if name in total}
  return {**averages(total), **averages_of_steps, 'examples': total['examples'], 'tokens': total['tokens'],
          'trained_norm': float(sums[-1]['trained_norm'])}
