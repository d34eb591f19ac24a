"""The batches of several runs side by side, as one batch."""

from collections.abc import Mapping, Sequence

from prompt_tuning.data.prefetch import Batches
from prompt_tuning.rows.assembling import beside
from prompt_tuning.types import Batch


class Beside:
  """Batches of the rows of all parts, one part after the other; `prompt_ids` is the part of a row.

  Args:
    parts: such as `TrainBatches`.
  """

  def __init__(self, parts: Sequence[Batches]):
    self.parts = parts

  @property
  def truncated(self) -> Mapping[str, int]:
    """The counts of all parts."""
    return {name: sum(part.truncated[name] for part in self.parts) for name in self.parts[0].truncated}

  def __next__(self) -> Batch:
    return beside([next(part) for part in self.parts])

  def state(self) -> dict[str, dict[str, int]]:
    """Returns the position of each part, by its number."""
    return {str(i): part.state() for i, part in enumerate(self.parts)}

  def restore(self, state: Mapping[str, Mapping[str, int]]) -> None:
    """Moves to a position that `state` returned."""
    for i, part in enumerate(self.parts):
      part.restore(state[str(i)])
