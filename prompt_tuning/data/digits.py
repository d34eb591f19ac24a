"""Handwritten digits as patches of real numbers: scikit-learn's bundled 8 by 8 images (from UCI's optdigits).

An image becomes a sequence of square patches, row by row; its class is the label of the last patch. One image in five,
chosen by a hash of its pixels, belongs to the split 'validation'.
"""

import hashlib

import numpy as np

from prompt_tuning.data.tasks import Example, Task

_SIDE, _BRIGHTEST = 8, 16
_VALIDATION = 0.2


def task(patch: int = 4) -> Task:
  """Returns the task `Digits`: inputs [T, patch²] between 0 and 1, T = (8 / patch)².

  Args:
    patch: the side of a patch: 1, 2, 4 or 8.

  Raises:
    ValueError: patches of this size do not tile the image.
    ImportError: scikit-learn is not installed.
  """
  if patch not in (1, 2, 4, 8):
    raise ValueError(f'Digits got patch={patch}. Use 1, 2, 4 or 8.')
  try:
    from sklearn.datasets import load_digits
  except ImportError as error:
    raise ImportError('The digits task needs scikit-learn: `pip install scikit-learn`.') from error
  found = load_digits()
  splits: dict[str, list[Example]] = {'train': [], 'validation': []}
  for image, label in zip(found.images, found.target, strict=True):
    share = int.from_bytes(hashlib.sha256(image.astype(np.uint8).tobytes()).digest()[:4]) / 2**32
    splits['validation' if share < _VALIDATION else 'train'].append({
      'inputs': _patches(image, patch), 'targets': np.array([label], np.int32), 'inputs_ends': False,
      'targets_ends': False})
  return Task('Digits', splits)


def _patches(image: np.ndarray, side: int) -> np.ndarray:
  count = _SIDE // side
  cut = image.reshape(count, side, count, side).swapaxes(1, 2)
  return (cut.reshape(count * count, side * side) / _BRIGHTEST).astype(np.float32)
