"""Values of a gin file that can be made only when the frozen model is there."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What is made later.

  Attributes:
    make: gets the frozen model (or something with its `path`, `width`, `vocabulary` and `embeddings()`).
    file: the file that the value is read from, if it is just that.
  """

  make: Callable[[Any], Any]
  file: str | None = None


def made(value: Any, model: Any) -> Any:
  """Returns the value itself, or what the recipe makes of the model."""
  return value.make(model) if isinstance(value, Recipe) else value
