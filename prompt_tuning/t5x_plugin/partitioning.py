"""`partitioning.…` in gin files of T5X: where a prompt lies on a mesh."""

from typing import Any


def prompt_axis_rules() -> list[tuple[str, Any]]:
  """Returns rules to add to T5X's own: a prompt is small, so every device has a copy of its positions."""
  return [('prompt', None)]
