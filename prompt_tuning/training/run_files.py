"""The files of a run's folder, local or under `gs://`.

  run.toml                                      the settings of the run
  README.md                                     the model card
  before.json                                   the metrics of the frozen model alone
  config.gin                                    its resolved gin configuration, if it was started with gin files
  model-info.txt                                every parameter: shape, trained or frozen, counts
  checkpoint_{step}/state.safetensors           everything that a resumed run needs
  numpy_checkpoints/checkpoint_{step}/…         each trained tensor as NumPy, under its dotted name
  last.safetensors, best.safetensors            the trained tensors to use
  prompts/{task}.safetensors                    of a run that trains a prompt for each task, each alone
  metrics.jsonl                                 all figures
  train/, training_eval/{task}/, …              figures for TensorBoard
  inference_eval/{task}-metrics.jsonl           the task's metrics
  inference_eval/{task}-{step}.jsonl            the model's predictions
  lock.json                                     the process that writes here, while it runs
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from prompt_tuning import trees
from prompt_tuning.checkpoints.prompt_files import write_numpy_prompt
from prompt_tuning.checkpoints.state import parse_state, write_state
from prompt_tuning.data.tasks import shortened
from prompt_tuning.devices import multihost
from prompt_tuning.evaluation import cards
from prompt_tuning.evaluation.saved import BEST, LAST, PROMPTS_OF_TASKS, Trained
from prompt_tuning.files import json_files, storage
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.tuning.method import Method
from prompt_tuning.types import Array, Flat, Params

STATE = 'state.safetensors'
BEFORE = 'before.json'  # the evaluation of the frozen model alone
_CHECKPOINT = re.compile(r'checkpoint_(\d+)')


def prepare(folder: str) -> None:
  """Creates the run's folder.

  Raises:
    ValueError: it is not a local path or an address gs://.
    OSError: it cannot be created or written.
  """
  try:
    storage.make_folder(folder)
  except ValueError as error:
    raise ValueError(f'model_dir={error}') from error
  except OSError as error:
    raise type(error)(f'model_dir={folder} cannot be written ({error.strerror or error}). '
                      'Give a folder that this user can write to.') from error


def checkpoint_path(folder: str, step: int) -> str:
  """Returns the path of a step's saved state."""
  return storage.join(folder, f'checkpoint_{step}', STATE)


def saved_steps(folder: str) -> list[int]:
  """Returns the steps of all saved states, in order."""
  found = [int(match.group(1)) for match in map(_CHECKPOINT.fullmatch, storage.list_folder(folder)) if match]
  return sorted(step for step in found if STATE in storage.list_folder(os.path.dirname(checkpoint_path(folder, step))))


def save(folder: str, step: int, *, trained: Flat, optimizer: Any, metadata: Mapping[str, Any],
         about: Mapping[str, Any], keep: int | None, exported: Flat | None = None,
         prompts: Mapping[str, Flat] | None = None) -> None:
  """Saves the trained tensors, then the run's state, then deletes the states that `keep` does not keep.

  The state is written last: if it exists, so does everything else of its step, no matter when a run was killed. An old
  state is deleted last, so that the next save finds what a killed save has left.

  Args:
    folder: the run's folder.
    step: the global step.
    trained: φ, flat.
    optimizer: the optimizer's state.
    metadata: the other values that a resumed run needs.
    about: the metadata of the file of trained tensors.
    keep: how many states to keep; None keeps all.
    exported: the part of φ for files that are used without training; None means φ.
    prompts: further files, by the names of tasks; those of the best tensors are kept, if there are any.
  """
  exported = trained if exported is None else exported
  numpy_folder = storage.join(folder, 'numpy_checkpoints', f'checkpoint_{step}')
  for name, array in exported.items():
    if array.ndim == 2:
      write_numpy_prompt(storage.join(numpy_folder, name.replace('/', '.')), np.asarray(array))
  save_last(folder, step, exported, about)
  if not storage.exists(storage.join(folder, BEST)):
    _save_prompts(folder, prompts or {}, {**about, 'step': step})
  arrays = {f'trained/{name}': array for name, array in trained.items()}
  arrays.update({f'optimizer/{name}': array for name, array in _named_leaves(optimizer).items()})
  storage.put_grown(folder)  # the figures up to this step
  write_state(checkpoint_path(folder, step), jax.device_get(arrays), {**metadata, 'step': step})
  _remove_old(folder, keep)


def save_together(folder: str, step: int, states: Mapping[str, Any], metadata: Mapping[str, Any],
                  keep: int | None) -> None:
  """Saves the state of several runs in one file, then deletes the states that `keep` does not keep.

  Args:
    folder: the folder of all runs.
    step: the global step.
    states: name of a run -> its state, with `trained` and `optimizer`.
    metadata: the other values that the resumed runs need.
    keep: as in `save`.
  """
  arrays = {f'{run}/{part}/{name}': array for run, state in states.items() for part in ('trained', 'optimizer')
            for name, array in _named_leaves(getattr(state, part)).items()}
  write_state(checkpoint_path(folder, step), jax.device_get(arrays), {**metadata, 'step': step})
  _remove_old(folder, keep)


def _remove_old(folder: str, keep: int | None) -> None:
  for old in () if keep is None else saved_steps(folder)[:-keep]:
    storage.remove_tree(storage.join(folder, 'numpy_checkpoints', f'checkpoint_{old}'))
    storage.remove_tree(storage.join(folder, f'checkpoint_{old}'))


def save_last(folder: str, step: int, exported: Flat, about: Mapping[str, Any]) -> None:
  """Saves the trained tensors of a step for use without training, and the card."""
  about = {**_with_before(folder, about), 'step': step}
  write_state(storage.join(folder, LAST), jax.device_get(dict(exported)), about)
  name = folder.rstrip('/').rpartition('/')[2]
  cards.write(folder, lambda earlier: cards.card(exported, about, title=name, source=name, earlier=earlier))


def _with_before(folder: str, about: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the metadata with the metrics of the frozen model alone, if the run has measured them."""
  path = storage.join(folder, BEFORE)
  if not storage.exists(path):
    return dict(about)
  return {**about, 'before': json_files.numbers_of(json.loads(storage.read_bytes(path)))}


def save_best(folder: str, trained: Flat, about: Mapping[str, Any], prompts: Mapping[str, Flat] | None = None) -> None:
  """Saves the best trained tensors so far, and the prompts of single tasks among them."""
  about = _with_before(folder, about)
  _save_prompts(folder, prompts or {}, about)
  write_state(storage.join(folder, BEST), jax.device_get(dict(trained)), about)


def _save_prompts(folder: str, prompts: Mapping[str, Flat], about: Mapping[str, Any]) -> None:
  """Saves each task's prompt in a file of its own."""
  for name, short in zip(prompts, shortened(list(prompts)), strict=True):
    path = storage.join(folder, PROMPTS_OF_TASKS, f'{short}.safetensors')
    write_state(path, jax.device_get(dict(prompts[name])), {**about, 'tasks': [name]})


def read_newest(folder: str) -> tuple[int, Flat, dict[str, Any]] | None:
  """Returns step, arrays and metadata of the newest state, which the main host reads; None if there is no state.

  Raises:
    ValueError: the state is damaged.
  """
  path = content = None
  if multihost.is_main() and (steps := saved_steps(folder)):
    path = checkpoint_path(folder, steps[-1])
    content = storage.read_bytes(path)
  content = multihost.from_main(content)
  if content is None:
    return None
  path = path or folder
  try:
    arrays, metadata = parse_state(path, content)
  except ValueError as error:
    raise ValueError(f'{error} To resume from an older state, delete the folder {os.path.dirname(path)}.') from error
  return metadata['step'], arrays, metadata


def restore(template: Any, arrays: Flat, prefix: str) -> Any:
  """Returns `template`'s tree with the saved arrays.

  Raises:
    ValueError: names or shapes differ from the saved ones.
  """
  wanted = {f'{prefix}/{name}': leaf for name, leaf in _named_leaves(template).items()}
  found = {name: array for name, array in arrays.items() if name.startswith(f'{prefix}/')}
  wrong = sorted(set(wanted) ^ set(found)) or [
    f'{name} {found[name].shape} instead of {wanted[name].shape}' for name in wanted
    if found[name].shape != wanted[name].shape]
  if wrong:
    raise ValueError(f'The saved state does not fit this run: {", ".join(wrong[:5])}. '
                     'Choose another folder, or the settings that the run was started with.')
  leaves, tree = jax.tree.flatten(template)
  return jax.tree.unflatten(tree, [
    jax.numpy.asarray(found[name], leaf.dtype) for name, leaf in zip(wanted, leaves, strict=True)])


def started_from(given: Trained, method: Method, own: Params, model: LanguageModel) -> Params:
  """Returns the trained tensors of a file as first values, in the structure of the method's own, or of their shapes.

  Raises:
    ValueError: they were made for another model, or the method cannot start from such tensors.
  """
  given.conditioning(model, task=next(iter(given.tasks()), None))
  wanted = {name: tuple(array.shape) for name, array in trees.flatten(own).items()}
  first = method.start(given.tensors, given.about, trees.flatten(own))
  found = {name: tuple(np.shape(array)) for name, array in first.items()}
  if found != wanted:
    told = lambda shapes: ', '.join(f'{name} {shape}' for name, shape in shapes.items()) or 'nothing'
    raise ValueError(f'The trained tensors to start from are {told(found)}, but the method trains {told(wanted)}. '
                     'Choose the method and its settings (length, rank, attentions) with which the file was trained.')
  return trees.unflatten({name: array if isinstance(array, jax.ShapeDtypeStruct) else
                          jax.numpy.array(array, jax.numpy.float32) for name, array in first.items()})


def write_model_info(folder: str, frozen: Params, trained: Flat, step: int) -> None:
  """Writes `model-info.txt`: the trained tensors, then the frozen parameters by the checkpoint's names.

  Args:
    folder: the output folder.
    frozen: the model's parameters, layers stacked.
    trained: name -> array; one that replaces a frozen parameter is listed only as trained.
    step: the step of these parameters.
  """
  named = {name: found for name, found in _frozen_shapes(frozen).items() if name not in trained}
  lines = [f'Variable {name} size {array.size} shape {tuple(array.shape)} {array.dtype} trained'
           for name, array in trained.items()]
  lines += [f'Variable {name} size {int(np.prod(shape))} shape {shape} {dtype} frozen'
            for name, (shape, dtype) in named.items()]
  total = sum(array.size for array in trained.values())
  still = sum(int(np.prod(shape)) for shape, _ in named.values())
  lines += [f'Total number of parameters: {total + still}', '', f'Trained: {total}', f'Frozen: {still}',
            f'Step: {step}', '']
  storage.write_bytes(storage.join(folder, 'model-info.txt'), '\n'.join(lines).encode())


def _frozen_shapes(frozen: Params) -> dict[str, tuple[tuple[int, ...], Any]]:
  named: dict[str, tuple[tuple[int, ...], Any]] = {}
  for path, array in trees.flatten(frozen).items():
    if trees.is_stacked(path):
      named.update({trees.layer_name(path, i): (tuple(array.shape[1:]), array.dtype) for i in range(array.shape[0])})
    else:
      named[path] = (tuple(array.shape), array.dtype)
  return named


def _named_leaves(tree: Any) -> dict[str, Array]:
  paths, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in paths}
