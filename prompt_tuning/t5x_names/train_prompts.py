"""`train_prompts.…`: where the prompt's vectors stand among the input."""

import dataclasses
from collections.abc import Callable
from typing import Any

from prompt_tuning.prompts import PromptTuning, Wayward
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.t5x_names import prompts

__all__ = ['Prompt', 'prefix_prompt', 'prefix_prompt_after_bos', 'suffix_prompt']


def prefix_prompt() -> layouts.Placement:
  """In front of the input."""
  return layouts.before


def prefix_prompt_after_bos() -> layouts.Placement:
  """Behind the input's first token."""
  return layouts.after_bos


def suffix_prompt(before_eos: bool = False) -> layouts.Placement:
  """At the end of the input, behind or in front of its end token."""
  return layouts.before_eos if before_eos else layouts.after_eos


@dataclasses.dataclass(frozen=True)
class Prompt:
  """The method: a prompt among the encoder's input.

  Attributes:
    prompt: the vectors.
    combine: where they stand: one of the functions above.
    see_input: the prompt's positions see the input.
    see_prompt: they see one another.
    cache_text: in training, keys and values of the text before the prompt are computed once and kept; for
      `suffix_prompt` and decoder-only models.
    wayward_text: a text of as many tokens as the prompt has vectors, near which it stays.
    wayward_gamma: the weight of its squared distance to the text's embedding.
  """

  prompt: prompts.Prompt
  combine: Callable[[], layouts.Placement] = prefix_prompt
  see_input: bool = True
  see_prompt: bool = True
  cache_text: bool = False
  wayward_text: str | None = None
  wayward_gamma: float = 0.0

  def __post_init__(self) -> None:
    if (self.wayward_text is None) != (self.wayward_gamma == 0.0):
      raise ValueError(f'train_prompts.Prompt.wayward_text is {self.wayward_text!r} and wayward_gamma '
                       f'{self.wayward_gamma}, but each needs the other. Set a text and a number above 0, or neither.')

  def build(self, model: Any) -> PromptTuning:
    """Returns the tuning method for a model."""
    wayward = None
    if self.wayward_text is not None:
      wayward = Wayward.of_text(model.embeddings(), model.vocabulary, self.wayward_text, self.wayward_gamma)
    return PromptTuning(self.prompt.build(model), self.combine(), Visibility(self.see_input, self.see_prompt),
                        cached=self.cache_text, wayward=wayward)
