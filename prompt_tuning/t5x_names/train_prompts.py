"""`train_prompts.…`: the position of the prompt's vectors in the input."""

from collections.abc import Callable

from prompt_tuning.runs.choice import Choice
from prompt_tuning.t5x_names import prompts

__all__ = ['Prompt', 'prefix_prompt', 'prefix_prompt_after_bos', 'suffix_prompt']


def prefix_prompt() -> str:
  """Before the input."""
  return 'before'


def prefix_prompt_after_bos() -> str:
  """After the input's first token."""
  return 'after_bos'


def suffix_prompt(before_eos: bool = False) -> str:
  """At the end of the input, after or before its end token."""
  return 'before_eos' if before_eos else 'after_eos'


def Prompt(prompt: prompts.Prompt, combine: Callable[[], str] = prefix_prompt, see_input: bool = True,
           see_prompt: bool = True, cache_text: bool = False, wayward_text: str | None = None,
           wayward_gamma: float = 0.0) -> Choice:
  """Chooses the method: a prompt in the encoder's input, see `tuning.prompt.PromptSettings`."""
  init = prompt.default_init if prompt.prompt_init is None else prompt.prompt_init
  return Choice('prompt', {
    'length': prompt.length, 'init': init, 'vectors_dtype': str(prompt.dtype), 'placement': combine(),
    'see_input': see_input, 'see_prompt': see_prompt, 'cached': cache_text, 'wayward_text': wayward_text,
    'wayward_gamma': wayward_gamma})
