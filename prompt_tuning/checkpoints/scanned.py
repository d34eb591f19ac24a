"""T5X checkpoints of models whose layers are scanned (`scan_layers=True`, `t5x.examples.scalable_t5`, umT5).

Their arrays hold all layers along dimension 1, under `encoder/encoder/…` instead of `encoder/layers_{i}/…`:

    encoder/encoder/mlp/wo/kernel            [F, L, D]
    encoder/encoder/attention/query/kernel   [D, L, H·K], or [D, L, H, K] with heads split (out: [H, L, K, D])
    encoder/encoder/relpos_bias/rel_embedding  [H, L, buckets]: each layer has separate biases

They are read here layer by layer, with the names and shapes of all other checkpoints.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning.checkpoints.loading import Part, Reader

_SCANNED = re.compile(r'(encoder/encoder|decoder/decoder)/(.+)')
_LAYER = re.compile(r'(encoder|decoder)/layers_(\d+)/(.+)')


class Layers:
  """A checkpoint of scanned layers, read layer by layer.

  Args:
    reader: the checkpoint.

  Attributes:
    path: the checkpoint's path.
    step: the checkpoint's step.
  """

  def __init__(self, reader: Reader):
    self._reader = reader
    self.path, self.step = reader.path, getattr(reader, 'step', 0)
    self._last: tuple[str, np.ndarray] | None = None  # the last array: its layers are read in succession

  def names(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns name -> shape and type, without reading the arrays."""
    found = {}
    for name, (shape, dtype) in self._reader.names().items():
      match = _SCANNED.fullmatch(name)
      if match is None or len(shape) < 2:
        found[name] = (shape, dtype)
      else:
        stack, rest = match[1].split('/')[0], match[2]
        one = _joined_shape(rest, (shape[0], *shape[2:]))
        found |= {f'{stack}/layers_{i}/{rest}': (one, dtype) for i in range(shape[1])}
    return found

  def read(self, name: str, part: Part = ...) -> np.ndarray:
    """Returns one array or one layer of it; or a slice of each of its axes."""
    match = _LAYER.fullmatch(name)
    if match is None:
      return self._reader.read(name, part)
    stack, layer, rest = match.groups()
    theirs = f'{stack}/{stack}/{rest}'
    if self._last is None or self._last[0] != theirs:
      self._last = (theirs, self._reader.read(theirs))
    array = self._last[1][:, int(layer)]
    return array.reshape(_joined_shape(rest, array.shape))[part]


def is_scanned(names: Mapping[str, Any]) -> bool:
  """Returns True if a checkpoint with these names holds scanned layers."""
  return any(_SCANNED.fullmatch(name) for name in names)


def _joined_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the shape of one layer with heads joined: its last dimensions, or for `out` the first two."""
  if len(shape) < 3:
    return shape
  if name.endswith('out/kernel'):
    return (math.prod(shape[:2]), *shape[2:])
  return (shape[0], math.prod(shape[1:]))
