"""`prefix.…`: what stands in front of every layer, instead of a prompt: keys and values, or vectors."""

from prompt_tuning.tuning.layer_prompts import LayerPrompts
from prompt_tuning.tuning.prefix import Prefix

__all__ = ['LayerPrompts', 'Prefix']
