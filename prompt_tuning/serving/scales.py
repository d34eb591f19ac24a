"""The scales of the answers that run together, as one table that each slot reads its entry of."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from prompt_tuning.devices import sharding
from prompt_tuning.models.scaling import Scaling, Scalings
from prompt_tuning.serving.prompts import Loaded
from prompt_tuning.serving.running import Running
from prompt_tuning.types import Array


class ScalesOfSlots:
  """The table [L, M, width] of the scales that are in use; the first entry is 1, M a power of two.

  It is made anew only if other scales are in use, so that few programs are compiled and little is copied.

  Args:
    mesh: the devices of the model.
  """

  def __init__(self, mesh: Any):
    self._mesh = mesh
    self._entries: list[Loaded] = []  # entry i + 1 of the table
    self._table: dict[str, dict[str, Array]] = {}

  def of(self, members: Sequence[Running | None], slots: np.ndarray) -> Scalings | None:
    """Returns the scaling of positions that belong to slots [B, T]; None if no answer has scales."""
    own = [running.loaded if running is not None and running.loaded.scales else None for running in members]
    used = list(dict.fromkeys(loaded for loaded in own if loaded is not None))
    if not used:
      self._entries, self._table = [], {}
      return None
    if not set(used) <= set(self._entries):
      self._entries, self._table = used, jax.device_put(sharding.copied(self._mesh, _table(used)))
    entries = {None: 0} | {loaded: number for number, loaded in enumerate(self._entries, start=1)}
    rows = np.asarray([entries[loaded] for loaded in own], np.int32)[slots]
    return {stack: Scaling(arrays, rows, rows) for stack, arrays in self._table.items()}


def _table(used: Sequence[Loaded]) -> dict[str, dict[str, np.ndarray]]:
  """Returns stack -> name -> [L, M, width]."""
  shapes: dict[str, dict[str, tuple[int, ...]]] = {}
  for loaded in used:
    for stack, scales in loaded.scales.items():
      shapes.setdefault(stack, {}).update({name: array.shape for name, array in scales.items()})
  count = 1 << len(used).bit_length()

  def joined(stack: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    table = np.ones((shape[0], count, shape[1]), np.float32)
    for number, loaded in enumerate(used, start=1):
      own: Mapping[str, np.ndarray] = loaded.scales.get(stack, {})
      if name in own:
        table[:, number] = own[name]
    return table

  return {stack: {name: joined(stack, name, shape) for name, shape in named.items()} for stack, named in shapes.items()}
