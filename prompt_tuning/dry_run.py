"""The plan of a run: what it would load, train, batch and write, found without reading the frozen model's weights."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prompt_tuning import inference, trees
from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder
from prompt_tuning.checkpoints.scanned import Layers, is_scanned
from prompt_tuning.conditioning import Method
from prompt_tuning.data.tasks import Task
from prompt_tuning.layouts import Layout
from prompt_tuning.models import loading
from prompt_tuning.models.t5_formats import infer_config
from prompt_tuning.prompts import PROMPTS, PromptTuning
from prompt_tuning.training import run_files
from prompt_tuning.types import Flat, Params

_SHAPE = ('vocab_size', 'width', 'heads', 'head_dim', 'mlp_dim', 'encoder_layers', 'decoder_layers', 'mlp_activations',
          'tied', 'relative_buckets')


class Outline:
  """A frozen model of which only shapes are known; its embedding is read where a prompt starts from it.

  Attributes:
    path: where it is.
    config: its shape.
    step: the step of its checkpoint.
    missing: why its checkpoint cannot be read; None if it can.
    vocabulary: its vocabulary, once it is read.
    params: shapes and types, layers stacked.
    prompted: the stack that prompts belong to.
  """

  def __init__(self, path: str, config: loading.Config, dtype: Any, *, step: int = 0, missing: Exception | None = None):
    self.path, self.config, self.step, self.missing, self.vocabulary = path, config, step, missing, None
    module = loading.module_of(config)
    self.prompted, self.prefix_shapes, self.layout = module.prompted, module.prefix_shapes, module.layout
    shapes = loading.parameter_shapes(module)
    self.params: Params = trees.unflatten({
      name: jax.ShapeDtypeStruct(array.shape, dtype) for name, array in shapes.items()})
    self.width = config.width

  @functools.cache  # noqa: B019 (a program looks at one model)
  def embeddings(self) -> Any:
    """Returns the embedding [V, D]; zeros that take no memory where it cannot be read."""
    if self.missing is not None:
      return np.broadcast_to(np.zeros((), np.float32), (self.config.vocab_size, self.width))
    return loading.load_embedding(self.path)


def show(run: Any) -> None:
  """Prints the plan of a run, an object of `t5x_names`.

  Raises:
    ValueError: something is missing or does not fit; the plan is printed as far as it goes.
  """
  problems: list[str] = []
  attempt = functools.partial(_attempt, problems)
  print(f'Plan of {type(run).__name__}; nothing is run and nothing written.')
  outline = attempt(lambda: read_outline(run))
  if outline is not None:
    if outline.missing is not None:
      problems.append(str(outline.missing))
    _show_model(run, outline)
    outline.vocabulary = attempt(lambda: run.model.vocabulary(run.restore.source or ''))
    show = _show_training if hasattr(run, 'trainer_cls') else _show_prompt
    attempt(lambda: show(run, outline))
  attempt(lambda: _show_data(run, outline))
  steps = run_files.saved_steps(run.model_dir) if hasattr(run, 'model_dir') else []
  if steps:
    print(f'{run.model_dir} holds a run that was saved at step {steps[-1]}: it is gone on with.')
  print('Files:\n' + '\n'.join(f'  {path}' for path in run.files()), flush=True)
  if problems:
    raise ValueError('The run cannot start:\n' + '\n'.join(f'  - {each}' for each in dict.fromkeys(problems)))
  print('The run can start: leave out --dry_run.')


def _attempt(problems: list[str], function: Callable[[], Any]) -> Any:
  try:
    return function()
  except (ValueError, OSError, ImportError) as error:
    problems.append(str(error))
    return None


def read_outline(run: Any) -> Outline:
  """Returns the outline of a run's frozen model."""
  restore, architecture = run.restore, run.model.module
  config, path, step = architecture.config(), restore.source, 0
  if path is None and config is None:
    raise ValueError('There is no checkpoint to read the shape of the model from. Set INITIAL_CHECKPOINT_PATH, or '
                     'choose a model file with a size.')
  missing = None
  if path is not None:
    try:
      reader = loading.open_checkpoint(loading.find_model(path))
      step = getattr(reader, 'step', 0) or 0
      stored = _stored_config(reader, restore.ignored)
      _check_shape(config or stored, stored, path)
      config = config or stored
    except (ValueError, OSError) as error:
      if config is None:
        raise
      missing = error
  return Outline(path or 'random', config, jnp.dtype(restore.dtype), step=step, missing=missing)


def _stored_config(reader: Any, ignored: tuple[str, ...]) -> loading.Config:
  if isinstance(reader, HuggingFaceFolder):
    return loading.read_config(reader)
  reader = Layers(reader) if is_scanned(reader.names()) else reader
  patterns = (*ignored, r'.*/prompt/prompt')
  return infer_config({name: found for name, found in reader.names().items() if not trees.matches(name, patterns)},
                      reader.path)


def _check_shape(asked: loading.Config, stored: loading.Config, path: str) -> None:
  shape = lambda config: {name: getattr(config, name, None) for name in _SHAPE}
  wrong = [f'{name}: {there} there, {wanted} asked for' for (name, there), wanted in zip(
    shape(stored).items(), shape(asked).values(), strict=True) if there != wanted]
  if wrong:
    raise ValueError(f'{path} is another model than the run asks for ({"; ".join(wrong)}). Choose the model file of '
                     'its size, or models/from_checkpoint_prompt.gin.')


def _layers(config: loading.Config) -> str:
  return str(config.layers) if hasattr(config, 'layers') else f'{config.encoder_layers}+{config.decoder_layers}'


def _show_model(run: Any, outline: Outline) -> None:
  config, frozen = outline.config, trees.flatten(outline.params)
  step = outline.step if outline.missing is None else 'unknown'
  print(f'Frozen model: {outline.path}, step {step}: {_layers(config)} '
        f'layers, {config.heads} heads of {config.head_dim}, width {config.width}, MLP {config.mlp_dim}, vocabulary '
        f'{config.vocab_size}\n  {trees.count(frozen):,} frozen parameters, {_size(_bytes(frozen))} as '
        f'{jnp.dtype(run.restore.dtype)}')


def _show_training(run: Any, outline: Outline) -> None:
  method = run.model.method(outline)
  trained = trees.flatten(_first_values(method, outline))
  optimizer = jax.eval_shape(run.optimizer.build(outline.step).init, trained)
  state = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(optimizer))}
  total = _bytes(trees.flatten(outline.params)) + 2 * _bytes(trained) + _bytes(state)
  print(f'Trained by {type(method).__name__}: {trees.count(trained):,} numbers')
  for name, array in list(trained.items())[:5]:
    print(f'  {name} {tuple(array.shape)}')
  if len(trained) > 5:
    print(f'  … and {len(trained) - 5} more')
  print(f'Memory: frozen {_size(_bytes(trees.flatten(outline.params)))}, trained {_size(_bytes(trained))}, gradients '
        f'the same, {type(run.optimizer).__name__} {_size(_bytes(state))}: {_size(total)}, and the activations of one '
        'microbatch')
  end = run.end(outline.step)
  if end <= outline.step and outline.missing is None:
    raise ValueError(f'TRAIN_STEPS is {end}, but the checkpoint is at step {outline.step}: it counts all steps. Set '
                     f'TRAIN_STEPS to {outline.step} plus the steps you want.')
  start = outline.step if outline.missing is None else 'unknown'
  print(f'Steps: {start} to {end}, evaluated every {run.eval_period}, saved every {run.checkpoint_cfg.save.period}')
  microbatches = run.trainer_cls().num_microbatches
  run.model.loss(outline.vocabulary).require_whole_batches(microbatches, run.data.pack)
  _show_batches(run, outline.layout(method.layout()), microbatches)


def _show_prompt(run: Any, outline: Outline) -> None:
  found = run.model.trained(outline, run.restore, seed=run.fallback_init_rng)
  found.conditioning(outline)
  print('Handed to the model: ' + (', '.join(
    f'{name} {tuple(array.shape)}' for name, array in list(found.tensors.items())[:5]) or 'nothing'))
  if run.data.task_feature_lengths is not None:
    _show_batches(run, outline.layout(found.layout()), None)


def _show_batches(run: Any, layout: Layout, microbatches: int | None) -> None:
  batch_size = run.data.batch_size
  rows = batch_size // (microbatches or 1)
  if rows * (microbatches or 1) != batch_size:
    raise ValueError(f'A batch of {batch_size} rows cannot be cut into {microbatches} microbatches. '
                     'Choose a number that divides it.')
  lengths = layout.rows(run.data.task_feature_lengths)
  varying = ''
  if run.data.pack and 'encoder' in lengths:
    varying = ', the decoder\'s longer where short inputs leave room for more targets'
  if run.data.buckets is not None:
    varying = f', or shorter: inputs in buckets {tuple(run.data.buckets)}'
  print(f'Batches: {microbatches or 1} x ' + ', '.join(f'{stack} [{rows}, {n}]' for stack, n in lengths.items())
        + varying)


def _show_data(run: Any, outline: Outline | None) -> None:
  if hasattr(run, 'examples'):
    print(f'Inputs: {len(run.examples())} of {run.data.name}')
    return
  task = run.task()
  if hasattr(run, 'evaluations'):
    run.evaluations(task)
  for each, _ in task.parts(run.data.split):
    print(f'Task {each.name}: {_splits(each)}')
    if hasattr(run, 'ranked'):
      run.ranked(each)
    if outline is not None and outline.vocabulary is not None:
      _show_example(each, run.data.split, outline)


def _splits(task: Task) -> str:
  return ', '.join(f'{name} {"endless" if hasattr(examples, "draw") else len(examples)}'
                   for name, examples in task.splits.items())


def _show_example(task: Task, split: str, outline: Outline) -> None:
  example = task.split(split)[0]
  for feature in ('inputs', 'targets'):
    value = example[feature]
    text = inference.text_of(example, feature, outline.vocabulary)
    count = len(outline.vocabulary.encode(value)) + 1 if isinstance(value, str) else len(value)
    print(f'  {feature}: {text[:60]!r}, {count} tokens')


def _first_values(method: Method, outline: Outline) -> Params:
  if isinstance(method, PromptTuning) and outline.missing is not None:
    return {PROMPTS[outline.prompted]: jax.ShapeDtypeStruct((method.layout().prompt_length, outline.width), np.float32)}
  if isinstance(method, PromptTuning):
    return method.initialise(jax.random.key(0), outline)

  def initialise(params: Params) -> Params:
    return method.initialise(jax.random.key(0), _Shapes(outline, params))

  return jax.eval_shape(initialise, outline.params)


class _Shapes:
  def __init__(self, outline: Outline, params: Params):
    self.width, self.params, self.prompted = outline.width, params, outline.prompted
    self.prefix_shapes = outline.prefix_shapes


def _bytes(flat: Flat) -> int:
  return sum(int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize for array in flat.values())


def _size(count: int) -> str:
  for unit in ('bytes', 'kB', 'MB', 'GB'):
    if count < 1000 or unit == 'GB':
      return f'{count:.3g} {unit}' if unit != 'GB' or count < 1000 else f'{count:,.0f} {unit}'
    count /= 1000
  return ''
