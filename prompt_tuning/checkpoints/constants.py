"""Arrays that a checkpoint leaves out because they are constant, read as if it held them."""

from collections.abc import Mapping

import numpy as np

from prompt_tuning.checkpoints.loading import Part, Reader


class Constants:
  """A checkpoint that also has constant arrays in float32; one that it holds itself is read from it.

  Args:
    reader: the checkpoint.
    constants: name -> shape and value.
  """

  def __init__(self, reader: Reader, constants: Mapping[str, tuple[tuple[int, ...], float]]):
    self._reader = reader
    self._constants = {name: found for name, found in constants.items() if name not in reader.names()}
    self.path = reader.path

  def names(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns name -> shape and type, without reading the arrays."""
    return {**self._reader.names(), **{name: (shape, np.dtype(np.float32))
                                       for name, (shape, _) in self._constants.items()}}

  def read(self, name: str, part: Part = ...) -> np.ndarray:
    """Returns one array, or a slice of each of its axes."""
    if name not in self._constants:
      return self._reader.read(name, part)
    shape, value = self._constants[name]
    return np.full(shape, value, np.float32)[part]
