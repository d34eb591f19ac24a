"""`prefix.…`: trained keys and values, or vectors, before every layer's own, instead of a prompt."""

from prompt_tuning.t5x_names.aliases import choosing
from prompt_tuning.tuning import layer_prompts, prefix

__all__ = ['LayerPrompts', 'Prefix']
LayerPrompts = choosing('layer_prompts', layer_prompts.LayerPrompts)
Prefix = choosing('prefix', prefix.Prefix, without=['init_from'])
