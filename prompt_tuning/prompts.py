"""Public names that users import or write in gin files: the prompt and its initialisers, from `tuning/`."""

from prompt_tuning.tuning.initialisers import (
  Initializer,
  from_array,
  from_embedded_list,
  from_embedded_string,
  from_sample_of_embeddings,
)
from prompt_tuning.tuning.prompt import PATH, PROMPTS, Prompt, PromptTuning, Wayward

__all__ = ['PATH', 'PROMPTS', 'Initializer', 'Prompt', 'PromptTuning', 'Wayward', 'from_array', 'from_embedded_list',
           'from_embedded_string', 'from_sample_of_embeddings']
