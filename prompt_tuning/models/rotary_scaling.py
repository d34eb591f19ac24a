"""Ways to scale rotary positions to more positions than a model was trained with, beyond linear and Llama 3's."""

import dataclasses
import math

import numpy as np

from prompt_tuning.models.positions import Rotary


@dataclasses.dataclass(frozen=True)
class Yarn(Rotary):
  """YaRN (Peng et al. 2023): dimensions that turn often keep their frequency, others are divided by `factor`.

  Attributes:
    fast: dimensions that turn more often in the original length keep their frequency (`beta_fast`).
    slow: those that turn less often are fully scaled (`beta_slow`); between the two, both are mixed.
    whole: the first and last mixed dimension are rounded outwards (`truncate`).
  """

  fast: float = 32.0
  slow: float = 1.0
  whole: bool = True

  def frequencies(self, head_dim: int, length: int = 0) -> np.ndarray:
    """Returns [dims / 2], as `Rotary.frequencies`."""
    del length
    plain, dims = self.plain(head_dim), self.dims(head_dim)
    place = lambda turns: dims * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(self.base))
    first, last = place(self.fast), place(self.slow)
    if self.whole:
      first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dims - 1)
    span = (last - first) or 0.001
    scaled = np.clip((np.arange(dims // 2, dtype=np.float32) - first) / span, 0, 1)
    return (scaled * plain / self.factor + (1 - scaled) * plain).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class LongRope(Rotary):
  """LongRoPE (Ding et al. 2024): each frequency has a divisor of its own, another one for long rows.

  Attributes:
    short: divisor of each frequency, for rows of up to `original` positions.
    long: divisor of each frequency if rows may be longer.
  """

  short: tuple[float, ...] = ()
  long: tuple[float, ...] = ()

  def frequencies(self, head_dim: int, length: int = 0) -> np.ndarray:
    """Returns [dims / 2], as `Rotary.frequencies`."""
    divisors = self.long if length > self.original else self.short
    return (self.plain(head_dim) / np.asarray(divisors, np.float32)).astype(np.float32)

  def limit(self, length: int) -> int:
    """Returns `original`, unless the frequencies are those for long rows."""
    return 0 if length > self.original else self.original


@dataclasses.dataclass(frozen=True)
class Dynamic(Rotary):
  """Dynamic NTK scaling: θ grows with the length of the rows beyond `original`, here with the length rows may have."""

  def frequencies(self, head_dim: int, length: int = 0) -> np.ndarray:
    """Returns [dims / 2], as `Rotary.frequencies`."""
    dims, stretch = self.dims(head_dim), max(length, self.original) / self.original
    base = self.base * (self.factor * stretch - (self.factor - 1)) ** (dims / (dims - 2))
    return dataclasses.replace(Rotary(base), share=self.share).plain(head_dim).astype(np.float32)

  def limit(self, length: int) -> int:
    """Returns the length that the frequencies are for."""
    return max(length, self.original)


@dataclasses.dataclass(frozen=True)
class Proportional(Rotary):
  """Rotary positions of a part of the pairs of a head, those of the shortest wavelengths (Gemma 4).

  Attributes:
    rotated: share of the pairs (i, i + K/2) that are rotated; the others keep their values.
  """

  rotated: float = 1.0

  def frequencies(self, head_dim: int, length: int = 0) -> np.ndarray:
    """Returns [K / 2], as `Rotary.frequencies`; 0 rotates nothing."""
    del length
    kept = np.arange(head_dim // 2) < int(self.rotated * head_dim // 2)
    return np.where(kept, self.plain(head_dim) / self.factor, 0).astype(np.float32)
