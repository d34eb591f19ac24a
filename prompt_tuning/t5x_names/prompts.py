"""`prompts.…`: the prompt's vectors and their first values, read from files and checkpoints."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from prompt_tuning.runs.choice import Choice

__all__ = ['Prompt', 'from_array', 'from_embedded_list', 'from_embedded_string', 'from_sample_of_embeddings', 'np_load',
           't5x_load']
_UNIFORM = Choice('uniform', {'scale': 0.5})


@dataclasses.dataclass(frozen=True)
class Prompt:
  """The prompt's vectors.

  Attributes:
    length: P; None is that of the file that they are read from.
    prompt_init: first values; None is `default_init`.
    dtype: type of the vectors that the model reads.
    default_init: used unless a file of `configs/prompts/` chooses another.
  """

  length: int | None = None
  prompt_init: Choice | None = None
  dtype: str = 'float32'
  default_init: Choice = _UNIFORM


def np_load(path: str) -> str:
  """Names an array: a prompt, or an embedding; for a MODEL_DIR or safetensors file of a run, its prompt."""
  return path


def t5x_load(checkpoint_path: str, variable_path: str = 'token_embedder/embedding',
             embedding_file: str | None = None) -> Choice:
  """Chooses a parameter of a checkpoint, or the NumPy file `embedding_file` if one is given."""
  given = {'path': checkpoint_path, 'parameter': variable_path.removeprefix('target/')}
  return Choice('checkpoint', given | ({'file': embedding_file} if embedding_file else {}))


def from_array(prompt: Any) -> Choice:
  """Starts from given vectors."""
  return Choice('file', {'path': prompt})


def from_sample_of_embeddings(embeddings: Any, population_size: int | None = 5000) -> Choice:
  """Starts from rows of the embedding; if the vocabulary is smaller than the population, from all."""
  return Choice('sampled', {'embeddings': embeddings, 'population_size': population_size})


def from_embedded_list(embeddings: Any, vocab: Any, texts: Sequence[str], initializer: Any = _UNIFORM) -> Choice:
  """Starts with one vector for each text, such as the class labels."""
  return Choice('texts', {'embeddings': embeddings, 'vocabulary': vocab, 'texts': tuple(texts), 'rest': initializer})


def from_embedded_string(embeddings: Any, vocab: Any, text: str, initializer: Any = _UNIFORM) -> Choice:
  """Starts with the vectors of a text's tokens."""
  return Choice('text', {'embeddings': embeddings, 'vocabulary': vocab, 'text': text, 'rest': initializer})
