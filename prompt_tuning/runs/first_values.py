"""First values of trained tensors by name: functions `(key, shape) -> array`."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen

from prompt_tuning import prompts
from prompt_tuning.checkpoints.prompt_files import read_prompt
from prompt_tuning.checks import require_type
from prompt_tuning.evaluation import saved
from prompt_tuning.models.loading import load_embedding
from prompt_tuning.names import Registry, nearest, require_number
from prompt_tuning.runs.choice import Choice
from prompt_tuning.runs.train_run import TrainRun
from prompt_tuning.types import Array

_POPULATION = 5000  # SentencePiece sorts by frequency: the first rows are those of common words


def sampled(model: Any, *, population_size: int | None = _POPULATION, embeddings: Any = None) -> prompts.Initializer:
  """Rows of the embedding drawn at random, of the first `population_size` rows."""
  require_number('population_size', population_size, least=1, whole=True, none=True)
  rows = array(embeddings, model)
  return prompts.from_sample_of_embeddings(rows, population_size and min(population_size, len(rows)))


def texts(model: Any, *, texts: tuple[str, ...], embeddings: Any = None, rest: Any = 'sampled',
          vocabulary: Any = None) -> prompts.Initializer:
  """One vector for each text, such as a class label: the mean of its tokens' embeddings; `rest` makes the others."""
  texts = (texts,) if isinstance(texts, str) else tuple(texts)
  return prompts.from_embedded_list(array(embeddings, model), vocabulary or _vocabulary(model), texts,
                                    initializer(rest, model))


def text(model: Any, *, text: str, embeddings: Any = None, rest: Any = 'sampled',
         vocabulary: Any = None) -> prompts.Initializer:
  """The embeddings of a text's tokens; `rest` makes the vectors after them."""
  require_type('text', text, str)
  return prompts.from_embedded_string(array(embeddings, model), vocabulary or _vocabulary(model), text,
                                      initializer(rest, model))


def file(model: Any, *, path: Any) -> prompts.Initializer:
  """The prompt of a file, of a run's folder, or an array of a checkpoint."""
  return prompts.from_array(array(path, model), path if isinstance(path, str) else 'The given array')


INITIALISERS: Registry = Registry('first value', {'sampled': sampled, 'texts': texts, 'text': text, 'file': file},
                                  ', or an initializer of Flax, such as uniform or normal')


def initializer(chosen: Any, model: Any) -> Callable[..., Array]:
  """Returns the function that a choice names; a function as it is.

  Raises:
    ValueError: there is none of this name, or it has no such option.
  """
  if not isinstance(chosen, str | Mapping | Choice):
    return chosen
  chosen = Choice.of(chosen)
  if chosen.name in INITIALISERS:
    return _called(chosen, INITIALISERS[chosen.name], model)
  make = None if chosen.name.startswith('_') else getattr(linen.initializers, chosen.name, None)
  return _called(chosen, INITIALISERS.find(chosen.name) if make is None else make)


def array(source: Any, model: Any) -> Array:
  """Returns an array: None is the model's embedding [V, D], a text is the path of a prompt.

  A choice `checkpoint` is a parameter of a checkpoint: `path`, and `parameter`, the embedding unless given.
  """
  if source is None:
    return model.embeddings()
  if isinstance(source, str):
    return saved.load_prompt(source).vectors
  source = Choice.of(source)
  if source.name != 'checkpoint':
    return array(source.name, model)
  path, name = source.options['path'], source.options.get('parameter', 'token_embedder/embedding')
  if source.options.get('file'):
    return read_prompt(source.options['file'])
  if path == model.path and name == 'token_embedder/embedding':
    return model.embeddings()
  return load_embedding(path, name)


def file_of(chosen: Any) -> str | None:
  """Returns the file that all first values are read from, or None."""
  chosen = Choice.of(chosen) if isinstance(chosen, str | Mapping | Choice) else None
  path = chosen.options.get('path') if chosen is not None and chosen.name == 'file' else None
  return path if isinstance(path, str) else None


def _vocabulary(model: Any) -> Any:
  if model.vocabulary is None:
    raise ValueError('First values of texts need the vocabulary of the model, which could not be read. Give '
                     'vocabulary=FILE.')
  return model.vocabulary


def _called(chosen: Choice, make: Callable[..., Any], *given: Any) -> Any:
  try:
    return make(*given, **chosen.options)
  except TypeError as error:
    known = list(getattr(make, '__kwdefaults__', None) or {})
    wrong = next((name for name in chosen.options if f"'{name}'" in str(error)), '')
    raise ValueError(f'The first values {chosen.name} cannot be made: {error}.{nearest(wrong, known)}') from error


def read_files(run: TrainRun) -> None:
  """Reads the files that a run's first values come from, to find errors before the model is read."""
  if run.start_from is not None:
    saved.load_trained(run.start_from)
  if (path := file_of(run.method.options.get('init'))) is not None:
    saved.load_prompt(path)
