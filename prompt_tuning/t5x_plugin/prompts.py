"""`prompts.…` in T5X's gin files: the prompt's vectors, and the same initialisers as elsewhere in the package."""


import numpy as np
from flax import linen as nn
from flax.linen import partitioning

from prompt_tuning import prompts as library
from prompt_tuning.checkpoints.prompt_files import read_prompt
from prompt_tuning.evaluation import saved
from prompt_tuning.models.loading import load_embedding
from prompt_tuning.prompts import from_array, from_embedded_list, from_embedded_string
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.types import Array

__all__ = ['Prompt', 'from_array', 'from_embedded_list', 'from_embedded_string', 'from_sample_of_embeddings', 'np_load',
           't5x_load']
AXES = ('prompt', 'embed')


class Prompt(library.Prompt):
  """The prompt's vectors, with axis names by which T5X shards them over a mesh.

  Attributes:
    length: P.
    prompt_init: initialiser; None means `default_init`.
    dtype: type in which the model gets the vectors; they are trained in float32.
    default_init: used unless a file from `configs/prompts/` sets another.
  """

  prompt_init: library.Initializer | None = None
  default_init: library.Initializer = nn.initializers.uniform(0.5)

  @nn.compact
  def __call__(self, width: int) -> Array:
    """Returns [P, D] for the model's width D."""
    vectors = self.param('prompt', self.prompt_init or self.default_init, (self.length, width))
    self.sow('params_axes', 'prompt_axes', partitioning.AxisMetadata(AXES), reduce_fn=lambda old, new: new)
    return vectors.astype(self.dtype)


def np_load(path: str) -> np.ndarray:
  """Reads an array: a prompt or an embedding; for a MODEL_DIR or safetensors file of a run, its prompt.

  Raises:
    ValueError: the prompt was trained with another placement than before the text, or with limited visibility.
  """
  found = saved.load_prompt(path)
  if found.placement is not layouts.before or found.visibility != Visibility():
    raise ValueError(f'The prompt of {path} was trained with the placement {found.placement.__name__} and '
                     f'{found.visibility}, but in T5X a prompt comes before the text and sees all of it. Train one '
                     'with train_prompts.prefix_prompt, or use this one with the programs of prompt_tuning.')
  return found.vectors


def t5x_load(checkpoint_path: str, variable_path: str = 'token_embedder/embedding',
             embedding_file: str | None = None) -> np.ndarray:
  """Reads a parameter of a checkpoint, or the NumPy file `embedding_file` if given."""
  if embedding_file:
    return read_prompt(embedding_file)
  return load_embedding(checkpoint_path, variable_path.removeprefix('target/'))


def from_sample_of_embeddings(embeddings: Array, population_size: int | None = 5000) -> library.Initializer:
  """Initialises with rows of the embedding; draws from all rows if there are fewer than the population size."""
  population = population_size and min(population_size, len(embeddings))
  return library.from_sample_of_embeddings(embeddings, population)
