"""EleutherAI's lm-evaluation-harness on a frozen model with a prompt; needs the extra `harness`."""

from prompt_tuning.harness.model import PromptedLM

__all__ = ['PromptedLM']
