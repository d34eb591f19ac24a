"""EleutherAI's lm-evaluation-harness on a frozen model with a prompt; needs the extra `harness`."""

from typing import Any

__all__ = ['PromptedLM']


def __getattr__(name: str) -> Any:
  """Imports the class when it is first used: `prompt-tuning lm-eval` says itself what to install."""
  if name != 'PromptedLM':
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from prompt_tuning.harness.model import PromptedLM

  return PromptedLM
