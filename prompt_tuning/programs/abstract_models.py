"""The abstract frozen model of a run: its shape and that of its parameters, found without reading the weights."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning import trees
from prompt_tuning.models import loading
from prompt_tuning.models.families.registry import get_family
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.quantised import INT8, is_quantisable, quantise
from prompt_tuning.runs import objects
from prompt_tuning.runs.base import Run
from prompt_tuning.tuning.method import Method
from prompt_tuning.types import Params

_RANDOM = 'float32'  # the type of random weights, whatever checkpoints are read as


class Outline:
  """A frozen model of which only shapes are known; its embedding is read if a prompt starts from it.

  Attributes:
    path: where it is.
    config: its shape.
    dtype: the type that its parameters are kept in.
    step: the step of its checkpoint.
    missing: why its checkpoint cannot be read; None if it can.
    vocabulary: its vocabulary, once it is read.
    params: shapes and types, layers stacked.
    prompted: the stack that prompts belong to.

  Args:
    path: as above.
    config: as above, without new input and output layers.
    dtype: as above.
    step: as above.
    missing: as above.
    run: a run with new input and output layers, or None.
  """

  def __init__(self, path: str, config: loading.Config, dtype: str, *, step: int = 0, missing: Exception | None = None,
               run: Run | None = None):
    self.path, self.dtype, self.step, self.missing, self.vocabulary = path, dtype, step, missing, None
    module = loading.module_of(config)
    shapes = loading.parameter_shapes(module)
    self.params: Params = trees.unflatten({path: _kept(path, array, dtype) for path, array in shapes.items()})
    if run is not None and run.new_layers is not None:
      module, self.params, self.vocabulary = _between(run, LanguageModel(module, self.params, None, path))
    self.config, self.width = module.config, module.facts().width
    self.prompted, self.prefix_shapes, self.layout = module.prompted, module.prefix_shapes, module.layout
    self.facts = module.facts()

  def read_vocabulary(self, run: Run) -> None:
    """Finds the vocabulary of the run's model, unless new input layers came with their own.

    Raises:
      FileNotFoundError, ValueError: it cannot be read.
    """
    if self.vocabulary is None:
      self.vocabulary = objects.vocabulary(run)

  @functools.cache  # noqa: B019 (a program looks at one model)
  def embeddings(self) -> Any:
    """Returns the embedding [V, D]; zeros that take no memory if it cannot be read."""
    if self.missing is not None or self.path == 'random':
      return np.broadcast_to(np.zeros((), np.float32), (self.config.vocab_size, self.width))
    return loading.load_embedding(self.path)

  def first_values(self, method: Method) -> Params:
    """Returns the shapes of what training starts from."""
    return jax.eval_shape(lambda params: method.initialise(jax.random.key(0), _Shapes(self, params)), self.params)


class _Shapes:
  def __init__(self, outline: Outline, params: Params):
    self.width, self.params, self.prompted = outline.width, params, outline.prompted
    self.prefix_shapes, self.facts = outline.prefix_shapes, outline.facts


def _between(run: Run, model: LanguageModel) -> tuple[Any, Params, Any]:
  """Returns module, shapes and vocabulary of a model between new input and output layers."""
  made = []

  def around(params: Params) -> Params:
    made.append(objects.around(run, dataclasses.replace(model, params=params)))
    return made[0].params

  params = jax.eval_shape(around, model.params)
  return made[0].module, params, made[0].vocabulary


def read_outline(run: Run) -> Outline:
  """Returns the abstract frozen model of a run.

  Raises:
    ValueError: the checkpoint is of another shape than the run asks for.
  """
  if run.head is not None or run.verbaliser is not None:
    given = 'verbaliser=…' if run.head is None else f'head={run.head}'
    raise ValueError(f'dry_run cannot be used with {given}. Leave one of them out.')
  config, path, step = objects.config(run), run.model, 0
  if path is None:
    return Outline('random', config, _RANDOM, run=run)
  missing = None
  try:
    reader = loading.open_checkpoint(loading.find_model(path))
    step = getattr(reader, 'step', 0) or 0
    stored = loading.read_config(reader, (*run.ignored, r'.*/prompt/prompt'))
    _check_shape(config or stored, stored, path)
    config = config or stored
  except (ValueError, OSError) as error:
    if config is None:
      raise
    missing = error
  config = loading.changed(config, path, dtype=jnp.dtype(run.activation_dtype), **objects.config_changes(run))
  return Outline(path, config, _RANDOM if run.random_weights else run.dtype, step=step, missing=missing, run=run)


def _kept(path: str, array: Any, dtype: str) -> Any:
  """Returns shape and type of a parameter as `loading.load_model` keeps it."""
  if dtype == INT8 and is_quantisable(path):
    return jax.eval_shape(quantise, array)
  return jax.ShapeDtypeStruct(array.shape, jnp.bfloat16 if dtype == INT8 else jnp.dtype(dtype))


def _check_shape(asked: loading.Config, stored: loading.Config, path: str) -> None:
  # Shapes of arrays do not show the distance; `load_model` compares it with a `config.json`.
  wrong = [f'kind: {stored.kind} in the checkpoint, {asked.kind} asked for'] if asked.kind != stored.kind else [
    f'{name}: {there} in the checkpoint, {wanted} asked for'
    for name, there, wanted in get_family(stored.family).differences(asked, stored) if name != 'relative_max_distance']
  if wrong:
    raise ValueError(f'{path} is another model than the run asks for ({"; ".join(wrong)}). Choose the model file of '
                     'its size, or models/from_checkpoint_prompt.gin.')
