"""`prompts.…` in gin files of T5X: the prompt's vectors, and the same first values as elsewhere in the package."""


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
  """The prompt's vectors, with names of their axes by which T5X places them on a mesh.

  Attributes:
    length: P.
    prompt_init: first values; None is `default_init`.
    dtype: type of the vectors that the model is handed; they are trained in float32.
    default_init: used where no file of `configs/prompts/` chose another.
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
  """Reads an array: a prompt, or an embedding; a MODEL_DIR or safetensors file of a run gives its prompt.

  Raises:
    ValueError: the prompt was trained for another place than the front, or to see less than all.
  """
  found = saved.load_prompt(path)
  if found.placement is not layouts.before or found.visibility != Visibility():
    raise ValueError(f'The prompt of {path} was trained with the placement {found.placement.__name__} and '
                     f'{found.visibility}, but in T5X a prompt stands before the text and sees all of it. Train one '
                     'with train_prompts.prefix_prompt, or use this one with the programs of prompt_tuning.')
  return found.vectors


def t5x_load(checkpoint_path: str, variable_path: str = 'token_embedder/embedding',
             embedding_file: str | None = None) -> np.ndarray:
  """Reads a parameter of a checkpoint, or the NumPy file `embedding_file` where one is given."""
  if embedding_file:
    return read_prompt(embedding_file)
  return load_embedding(checkpoint_path, variable_path.removeprefix('target/'))


def from_sample_of_embeddings(embeddings: Array, population_size: int | None = 5000) -> library.Initializer:
  """Starts from rows of the embedding; of a vocabulary that is smaller than the population, from all."""
  population = population_size and min(population_size, len(embeddings))
  return library.from_sample_of_embeddings(embeddings, population)
