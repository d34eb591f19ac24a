"""Weights in 4 bits, mxfp4 (Rouhani et al. 2023): blocks of 32 numbers that share a power of two.

    NAME_blocks  [E, out, in / 32, 16] bytes: two numbers each, the first in the lower half
    NAME_scales  [E, out, in / 32] bytes: 127 + the exponent
    NAME         [E, in, out], as which they are read
"""

import numpy as np

from prompt_tuning.checkpoints.loading import Part, Reader

_MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_VALUES = np.concatenate([_MAGNITUDES, -_MAGNITUDES])  # the highest of 4 bits is the sign
_BLOCKS, _SCALES, _LENGTH = '_blocks', '_scales', 32


class Mxfp4:
  """A checkpoint whose arrays in 4 bits are read as float32; other arrays are read as they are.

  Args:
    reader: the checkpoint.
  """

  def __init__(self, reader: Reader):
    self._reader = reader
    self._known = reader.names()
    self.path = reader.path

  def names(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns name -> shape and type, without reading the arrays; blocks whose scales do not fit stay as they are."""
    found = dict(self._known)
    for name in [name for name in found if name.endswith(_BLOCKS)]:
      plain = name.removesuffix(_BLOCKS)
      shape, dtype = found[name]
      scales = found.get(f'{plain}{_SCALES}')
      if scales == (shape[:-1], dtype) and dtype == np.uint8 and len(shape) == 4 and 2 * shape[-1] == _LENGTH:
        del found[name], found[f'{plain}{_SCALES}']
        found[plain] = (shape[0], shape[2] * _LENGTH, shape[1]), np.dtype(np.float32)
    return found

  def read(self, name: str, part: Part = ...) -> np.ndarray:
    """Returns one array, or a slice of each of its axes."""
    known = self._known
    if name in known or f'{name}{_BLOCKS}' not in known:
      return self._reader.read(name, part)
    experts, outputs, groups, _ = known[f'{name}{_BLOCKS}'][0]
    part = (slice(0, experts), slice(0, groups * _LENGTH), slice(0, outputs)) if part is ... else part
    first, last, _ = part[1].indices(groups * _LENGTH)
    whole = slice(first // _LENGTH, -(-last // _LENGTH))  # the blocks that hold the part
    held = part[0], part[2], whole
    blocks, scales = self._reader.read(f'{name}{_BLOCKS}', (*held, slice(0, 16))), self._reader.read(
      f'{name}{_SCALES}', held)
    values = _VALUES[np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], _LENGTH)]
    values = np.ldexp(values, scales.astype(np.int32)[..., None] - 127).reshape(*blocks.shape[:2], -1)
    start = first - whole.start * _LENGTH
    return np.swapaxes(values[..., start:start + last - first], 1, 2)
