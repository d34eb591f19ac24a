"""`prefix.…`: what stands in front of every layer, instead of a prompt: keys and values, or vectors."""

import dataclasses
from typing import Any

from prompt_tuning.tuning import prefix as library
from prompt_tuning.tuning.layer_prompts import LayerPrompts

__all__ = ['LayerPrompts', 'Prefix']


@dataclasses.dataclass(frozen=True)
class Prefix(library.Prefix):
  """A prefix; see `prompt_tuning.tuning.prefix.Prefix` for what is not said here.

  Attributes:
    text: start from what the frozen model makes of this text, of `length` tokens; decoder-only models.
  """

  text: str | None = None

  def build(self, model: Any) -> 'Prefix':
    """Returns the method for a model; one of which only shapes are known gives first values that are drawn."""
    if self.text is None or not hasattr(model, 'read'):
      return self
    return dataclasses.replace(self, init_from=model.read([self.text]).as_prefix())
