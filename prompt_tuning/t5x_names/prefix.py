"""`prefix.…`: keys and values in front of every layer's own, instead of a prompt."""

from prompt_tuning.tuning.prefix import Prefix

__all__ = ['Prefix']
