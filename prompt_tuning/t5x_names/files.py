"""`files.…`: tasks from JSONL, TSV and CSV files."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ['FileTask']


def FileTask(inputs: str = '{inputs}', targets: str = '{targets}', labels: Mapping[str, str] | None = None,
             validation: float | str = 0.1, test: str | None = None,
             metrics: Sequence[str] = ('accuracy',), loss_weight: str | None = None,
             cut: str = 'right') -> dict[str, Any]:
  """Returns how the rows of a file become examples, as settings of a run."""
  return {'template': inputs, 'target_template': targets, 'labels': labels, 'validation': validation, 'test': test,
          'metrics': tuple(metrics), 'loss_weight': loss_weight, 'cut': cut}
