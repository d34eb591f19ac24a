"""Metrics of a classification head, by its problem."""

from collections.abc import Sequence

import numpy as np

from prompt_tuning.data.metrics import accuracy

PERCENT = 100.0


def f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns the F1 of labels over all texts together (micro average), in percent; labels are separated by commas."""
  sets = lambda texts: [{name.strip() for name in text.split(',') if name.strip()} for text in texts]
  pairs = list(zip(sets(targets), sets(predictions), strict=True))
  right, given = sum(len(a & b) for a, b in pairs), sum(len(a) + len(b) for a, b in pairs)
  return {'f1': PERCENT * 2 * right / given if given else PERCENT}


def errors(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
  """Returns Pearson's correlation, 0 if one side is constant, in percent, and the mean squared error, of numbers."""
  a, b = (np.array([float(text) for text in texts]) for texts in (targets, predictions))
  spread = a.std() * b.std()
  pearson = float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else 0.0
  return {'pearson': PERCENT * pearson, 'mse': float(np.mean((a - b)**2))}


METRICS = {'single': accuracy, 'multi': f1, 'regression': errors}
