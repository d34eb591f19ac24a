"""Makes the library's objects from a run's values."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from absl import logging

from prompt_tuning import trees
from prompt_tuning.checkpoints.state import require_no_run
from prompt_tuning.data import files, registry, token_files, vocabularies, vocabulary_folders
from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.decoding.samplers import SAMPLERS, Sampler
from prompt_tuning.devices import meshes
from prompt_tuning.evaluation import saved
from prompt_tuning.files import storage
from prompt_tuning.losses import Loss, make_loss
from prompt_tuning.models import loading, new_layers
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.new_models import ARCHITECTURES
from prompt_tuning.models.quantised import INT8
from prompt_tuning.names import require_known, require_number
from prompt_tuning.runs import first_values, heading
from prompt_tuning.runs.base import FILE_SETTINGS, MOST_VECTORS, Count, Run
from prompt_tuning.runs.choice import Choice
from prompt_tuning.runs.train_run import TrainRun
from prompt_tuning.runs.values import checked
from prompt_tuning.training.optimizers import Optimizer
from prompt_tuning.training.registry import find_optimizer, make_optimizer
from prompt_tuning.training.schedules import create_schedule
from prompt_tuning.tuning.method import Method
from prompt_tuning.tuning.registry import get_method

# --- The frozen model ------------------------------------------------------------------------------------------------


def check_output(path: str, *, is_file: bool = False) -> None:
  """Ensures that a run can write its folder, or file, before it computes what is in it.

  Raises:
    ValueError: it is neither a local path nor a gs:// address.
    ImportError: a package is missing for it.
    OSError: it cannot be written.
  """
  try:
    (storage.check_file if is_file else storage.check_writable)(path)
  except (ValueError, ImportError, OSError) as error:
    raise type(error)(f'output={error}') from error


def mesh_shape(run: Run) -> meshes.MeshShape:
  """Returns how many devices there are along each axis."""
  return meshes.MeshShape(**run.mesh or {})


def config_changes(run: Run) -> dict[str, Any]:
  """Returns the fields of a model's config that a run sets, whatever the model's shape."""
  trains = {name: getattr(run, name) for name in ('dropout_rate', 'rematerialise') if isinstance(run, TrainRun)}
  return {'attention': run.attention, **trains, **({'rotary_length': run.rotary_length} if run.rotary_length else {})}


def config(run: Run) -> Any:
  """Returns the config of a run's architecture, or None if the checkpoint gives the shape.

  Raises:
    ValueError: there is no such architecture, or its options cannot be used.
  """
  if run.architecture is None:
    return None
  make = ARCHITECTURES.find(run.architecture.name)
  try:
    return dataclasses.replace(make(**run.architecture.options), dtype=jnp.dtype(run.activation_dtype),
                               **config_changes(run))
  except TypeError as error:
    raise ValueError(f'The architecture {run.architecture.name} cannot be made: {error}.') from error


def vocabulary(run: Run) -> Any:
  """Returns the vocabulary of a run's model.

  Raises:
    FileNotFoundError: there is none.
    ValueError: an option cannot be used, or a file is damaged.
  """
  _require_model(run.model)
  chosen = run.vocabulary or Choice('folder')
  known = _VOCABULARY_OPTIONS.get(chosen.name, ('extra_ids',))
  require_known(chosen.options, known, f'vocabulary={chosen.name}', 'option')
  numbers = {name: checked(name, value, Count if name in ('extra_ids', 'size') else int)
             for name, value in chosen.options.items() if name not in ('path', 'default') and value is not None}
  if chosen.name == 'bytes':
    return vocabularies.ByteVocabulary(**numbers)
  if chosen.name == 'pass_through':
    if 'size' not in numbers:
      raise ValueError('vocabulary=pass_through has no size. Give the number of its ids as vocabulary.size=NUMBER.')
    made = vocabularies.PassThroughVocabulary(**numbers)
    _warn_of_another_end(run.model, made.eos_id)
    return made
  if chosen.name not in ('folder', 'sentencepiece'):
    return _open_vocabulary(chosen.name, **numbers)
  folder = loading.find_model(run.model) if run.model else ''
  path = chosen.options.get('path')
  elsewhere = path or chosen.options.get('default') or storage.is_remote(folder)
  if folder and not elsewhere and not os.path.isdir(folder):
    loading.open_checkpoint(folder)  # raises an error: there is none
  if path is None and folder and not storage.is_remote(folder):
    try:
      return vocabulary_folders.load_vocabulary(folder, **numbers)
    except FileNotFoundError:
      if chosen.options.get('default') is None:
        raise
  path = path or chosen.options.get('default')
  if path is None:
    raise FileNotFoundError(f'{folder or "The run"} has no vocabulary. Give vocabulary=FILE.')
  return _open_vocabulary(path, **numbers)


_VOCABULARY_OPTIONS = {'folder': (), 'sentencepiece': ('path', 'extra_ids', 'default'), 'bytes': ('extra_ids',),
                       'pass_through': ('size', 'eos_id', 'pad_id')}


def _warn_of_another_end(model: str | None, eos_id: int) -> None:
  """Logs a warning if texts of token ids end with another id than the model's folder says."""
  folder = loading.find_model(model) if model else ''
  ends = () if not folder or storage.is_remote(folder) else token_files.end_ids(folder)
  if ends and eos_id not in ends:
    logging.warning('vocabulary=pass_through ends texts with the id %d, but %s with %s. To use that, give '
                    'vocabulary.eos_id=%d.', eos_id, folder, ' or '.join(map(str, ends)), ends[0])


def _require_model(path: str | None) -> None:
  """Raises an error if a local path is the folder of a run instead of a model."""
  folder = '' if path is None else loading.find_model(path)
  if folder and not storage.is_remote(folder):
    require_no_run(folder)


@functools.lru_cache(maxsize=4)
def _open_vocabulary(path: str, extra_ids: int | None = None) -> vocabularies.Vocabulary:
  path = loading.find_model(path)
  if not storage.exists(path) and not storage.is_remote(path):
    raise FileNotFoundError(f'{path}: there is no such vocabulary file. Give vocabulary=FILE.')
  return vocabulary_folders.load_vocabulary(path, extra_ids)


def load_model(run: Run, *, mesh: Any = None) -> LanguageModel:
  """Reads a run's frozen model onto the devices of its mesh; without a checkpoint makes one of random weights.

  Args:
    run: the run.
    mesh: a mesh to use instead of the run's.

  Raises:
    FileNotFoundError: there is no checkpoint, or no vocabulary.
    ValueError: they do not fit.
  """
  words, shape, mesh = vocabulary(run), config(run), mesh or meshes.make_mesh(mesh_shape(run))
  if run.model is None:
    if words.size > shape.vocab_size:
      raise ValueError(f'The vocabulary {words} has {words.size} tokens, but the embedding of the model has '
                       f'{shape.vocab_size} rows. Use a vocabulary for this model.')
    model = loading.random_model(dataclasses.replace(shape, mesh=mesh), seed=run.seed or 0, vocabulary=words)
  else:
    # A prompt that the checkpoint holds is read by `trained`, not as part of the model.
    model = loading.load_model(
      run.model, dtype=INT8 if run.dtype == INT8 else jnp.dtype(run.dtype), mesh=mesh,
      activation_dtype=jnp.dtype(run.activation_dtype), vocabulary=words, config=shape,
      ignore=(*run.ignored, r'.*/prompt/prompt'), **config_changes(run))
  model = new_layers.untrained(model, seed=run.seed or 0) if run.random_weights else model
  return around(run, model)


def around(run: Run, model: LanguageModel) -> LanguageModel:
  """Returns the model between the run's new input and output layers, if there are any."""
  model = model if run.new_layers is None else new_layers.with_new_layers(model, **run.new_layers)
  return heading.around(run, model, functools.partial(task, run))


# --- Data ------------------------------------------------------------------------------------------------------------


def task(run: Run, chosen: Choice | None = None) -> Task | Mixture:
  """Returns the task of a run, or the `chosen` one; tasks of SeqIO are tokenised with the run's vocabulary.

  Raises:
    ValueError: there is no such task, or a file cannot be read.
  """
  chosen = chosen or run.data
  if chosen == run.data and run.reads_table:
    names = {*FILE_SETTINGS} & {*run.settings()} - {'label_column'}  # which `columns` has
    settings = {'train_on': None} | {name: getattr(run, name) for name in names}
    return files.FileTask(chosen.name, inputs=settings.pop('template'), targets=settings.pop('target_template'),
                          validation=run.validation, vocabulary=lambda: vocabulary(run), **settings)
  words = None if run.new_layers else vocabulary(run)
  return registry.get(chosen.name, words, lengths_given(run), options=chosen.options)


def lengths_given(run: Run) -> dict[str, int] | None:
  """Returns the most tokens of 'inputs' and 'targets', as far as they are given; None if neither is."""
  given = {'inputs': run.max_input_length, 'targets': run.max_target_length}
  return {name: length for name, length in given.items() if length is not None} or None


def sampler(run: Run) -> Sampler:
  """Returns a run's sampler.

  Raises:
    ValueError: there is no such sampler or option.
  """
  make = SAMPLERS.find(run.sampler.name)
  require_known(run.sampler.options, make.__dataclass_fields__, f'The sampler {run.sampler.name}')
  return make(**run.sampler.options)


# --- Training --------------------------------------------------------------------------------------------------------


def method(chosen: Choice, model: Any) -> Method:
  """Returns the chosen tuning method, built for a model.

  Raises:
    ValueError: there is none, or an option cannot be used.
  """
  made = get_method(chosen.name)
  owner = getattr(made, 'Settings', made)
  fields, options = owner.__dataclass_fields__, dict(chosen.options)
  require_known(options, fields, f'The method {chosen.name}')
  if 'length' in options and options['length'] is None and first_values.file_of(options.get('init')):
    options['length'] = len(saved.load_prompt(first_values.file_of(options['init'])).vectors)
  require_number('length', options.get('length', 1), least=1, most=MOST_VECTORS, whole=True)
  if 'init' in fields:
    default = fields['init'].default
    options['init'] = first_values.initializer(options.get('init', default), model)
  return owner(**options).build(model)


def default_first_values(chosen: Choice) -> str:
  """Returns the name of the first values that a method has unless others are given."""
  made = get_method(chosen.name)
  field = getattr(made, 'Settings', made).__dataclass_fields__.get('init')
  return field.default if field is not None and isinstance(field.default, str) else "the method's own"


def require_trainable(run: TrainRun, model: Any, trained: Mapping[str, Any]) -> None:
  """Raises ValueError if the run's patterns do not match exactly the names of the trained tensors."""
  if run.trainable is None:
    return
  frozen = [trees.layer_name(path, 0) if trees.is_stacked(path) else path for path in trees.flatten(model.params)]
  wrong = [name for name in frozen if name not in trained and trees.matches(name, run.trainable)]
  missed = [name for name in trained if not trees.matches(name, run.trainable)]
  if wrong or missed:
    why = f'matches {wrong[0]}' if wrong else f'does not match {missed[0]}'
    raise ValueError(f'trainable={list(run.trainable)} {why}: the method {run.method.name} trains its own tensors and '
                     "nothing else. To retrain parameters, set method='retrained' and its patterns.")


def optimizer(run: TrainRun, start: int, rate: float | None = None) -> Optimizer:
  """Returns the optimizer of a run.

  Args:
    run: the run.
    start: the global step at which it starts.
    rate: Adafactor's learning rate if the run gives none; None is the method's for any model.
  """
  options = dict(run.optimizer.options)
  own = options.pop('learning_rate', None)
  if own is not None and run.schedule == 'constant':
    return make_optimizer(run.optimizer.name, options, own)
  rate = run.learning_rate or own or _default_rate(run, rate)
  first = 0 if run.global_schedule else start
  schedule = create_schedule(run.schedule, rate, run.warmup_steps, run.decay_steps or end(run, start) - first)
  return make_optimizer(run.optimizer.name, options, (lambda step: schedule(step - first)) if first else schedule)


def _default_rate(run: TrainRun, rate: float | None) -> float:
  if run.optimizer.name == 'adafactor':
    return rate or get_method(run.method.name).learning_rate
  default = getattr(find_optimizer(run.optimizer.name), 'learning_rate', None)
  if not isinstance(default, float):
    raise ValueError(f'The optimizer {run.optimizer.name} has no default learning rate. Give learning_rate=NUMBER.')
  return default


def end(run: TrainRun, start: int) -> int:
  """Returns the global step at which a run from a checkpoint of step `start` ends."""
  return run.total_steps if run.steps is None else start + run.steps


def loss(run: TrainRun, words: Any, model: LanguageModel | None = None) -> Loss:
  """Returns what is minimised; a model with a classification head has that of its problem."""
  chosen = run.loss if model is None else heading.loss(run.loss, model)
  return make_loss(chosen.name, chosen.options, divisor=run.loss_divisor, vocabulary=words)
