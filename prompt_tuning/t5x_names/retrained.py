"""`retrained.…`: what to train instead of a prompt."""

from prompt_tuning.tuning.retrained import Retrained

__all__ = ['Retrained']
