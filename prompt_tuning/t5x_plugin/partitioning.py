"""`partitioning.…` in T5X's gin files: the sharding of a prompt."""

from typing import Any


def prompt_axis_rules() -> list[tuple[str, Any]]:
  """Returns rules to add to T5X's: a prompt is small, so its positions are replicated on every device."""
  return [('prompt', None)]
