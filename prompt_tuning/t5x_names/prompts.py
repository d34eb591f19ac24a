"""`prompts.…`: the prompt's vectors and their first values, read from files and checkpoints."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flax import linen

from prompt_tuning import prompts as library
from prompt_tuning.checkpoints.prompt_files import read_prompt
from prompt_tuning.evaluation import saved
from prompt_tuning.models.loading import load_embedding
from prompt_tuning.t5x_names.recipe import Recipe, made

__all__ = ['Prompt', 'from_array', 'from_embedded_list', 'from_embedded_string', 'from_sample_of_embeddings', 'np_load',
           't5x_load']
_UNIFORM = linen.initializers.uniform(0.5)


@dataclasses.dataclass(frozen=True)
class Prompt:
  """The prompt's vectors.

  Attributes:
    length: P; None takes that of the file they are read from.
    prompt_init: first values; None is `default_init`.
    dtype: type of the vectors that the model is handed.
    default_init: used where no file of `configs/prompts/` chose another.
  """

  length: int | None = None
  prompt_init: Any = None
  dtype: Any = 'float32'
  default_init: Any = _UNIFORM

  @property
  def file(self) -> str | None:
    """The file that the whole prompt is read from, or None."""
    return self.prompt_init.file if isinstance(self.prompt_init, Recipe) else None

  def build(self, model: Any) -> library.Prompt:
    """Returns the module.

    Raises:
      ValueError: the length is not known.
    """
    initialise = made(self.default_init if self.prompt_init is None else self.prompt_init, model)
    length = self.length
    if length is None and self.file is not None:
      length = len(saved.load_prompt(self.file).vectors)
    if length is None or length < 1:
      raise ValueError(f'The prompt has the length {length}. Set PROMPT_LENGTH to at least 1, such as 100.')
    return library.Prompt(length, initialise, self.dtype)


def np_load(path: str) -> Recipe:
  """Reads an array: a prompt, or an embedding; a MODEL_DIR or safetensors file of a run gives its prompt."""
  return Recipe(lambda model: saved.load_prompt(path).vectors, file=path)


def t5x_load(checkpoint_path: str, variable_path: str = 'token_embedder/embedding',
             embedding_file: str | None = None) -> Recipe:
  """Reads a parameter of a checkpoint, or the NumPy file `embedding_file` where one is given."""
  name = variable_path.removeprefix('target/')

  def make(model: Any) -> Any:
    if embedding_file:
      return read_prompt(embedding_file)
    if checkpoint_path == model.path and name == 'token_embedder/embedding':
      return model.embeddings()
    return load_embedding(checkpoint_path, name)

  return Recipe(make)


def from_array(prompt: Any) -> Recipe:
  """Starts from given vectors."""
  file = getattr(prompt, 'file', None)
  return Recipe(lambda model: library.from_array(made(prompt, model), file or 'The given array'), file=file)


def from_sample_of_embeddings(embeddings: Any, population_size: int | None = 5000) -> Recipe:
  """Starts from rows of the embedding; of a vocabulary that is smaller than the population, from all."""

  def make(model: Any) -> library.Initializer:
    rows = made(embeddings, model)
    return library.from_sample_of_embeddings(rows, population_size and min(population_size, len(rows)))

  return Recipe(make)


def from_embedded_list(embeddings: Any, vocab: Any, texts: Sequence[str], initializer: Any = _UNIFORM) -> Recipe:
  """Starts with one vector for each text, such as the class labels."""
  return Recipe(lambda model: library.from_embedded_list(
    made(embeddings, model), made(vocab, model), texts, made(initializer, model)))


def from_embedded_string(embeddings: Any, vocab: Any, text: str, initializer: Any = _UNIFORM) -> Recipe:
  """Starts with the vectors of a text's tokens."""
  return Recipe(lambda model: library.from_embedded_string(
    made(embeddings, model), made(vocab, model), text, made(initializer, model)))
