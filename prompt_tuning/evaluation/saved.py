"""What saved tensors mean: prompts and other trained tensors as files and folders of runs hold them."""


import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from prompt_tuning import trees
from prompt_tuning.checkpoints.prompt_files import MAGIC, read_prompt, write_numpy_prompt
from prompt_tuning.checkpoints.state import read_state, write_state
from prompt_tuning.files import storage
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.prompts import PATH, PROMPTS
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning, Visibility
from prompt_tuning.tuning.layer_prompts import NAMES, check_layer_prompts, layer_prompts, layout_of
from prompt_tuning.tuning.low_rank import is_low_rank, low_rank_updates
from prompt_tuning.tuning.prefix import check_prefix, is_prefix, prefixes
from prompt_tuning.types import Array, Flat

# In a run's folder.
BEST, LAST, METRICS = 'best.safetensors', 'last.safetensors', 'metrics.jsonl'


@dataclasses.dataclass(frozen=True)
class SavedPrompt:
  """A trained prompt, with what a model must know to use it.

  Attributes:
    vectors: [P, D].
    placement: where they stand among the input's tokens.
    visibility: what they see.
    about: what else the file says: model, task, step, metrics.
    path: the name of its tensor, which says whose stack it belongs to.
  """

  vectors: Array
  placement: layouts.Placement = layouts.before
  visibility: Visibility = Visibility()
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  path: str = PATH

  def layout(self) -> layouts.Layout:
    """Returns how examples are laid out for this prompt."""
    return layouts.Layout(len(self.vectors), self.placement, alone=not self.visibility.input)

  def save(self, path: str) -> None:
    """Writes the prompt: as NumPy `[P, D]` where `path` ends in `.npy` (which keeps the vectors only), else as a
    safetensors file with everything.

    Raises:
      OSError: the file cannot be written.
    """
    if str(path).endswith('.npy'):
      write_numpy_prompt(path, self.vectors)
    else:
      trained = self.as_trained()
      write_state(path, trained.tensors, trained.about)

  def as_trained(self) -> 'Trained':
    """Returns the prompt as the tensors of a file."""
    about = {**self.about, 'placement': self.placement.__name__, 'visibility': dataclasses.asdict(self.visibility)}
    return Trained({self.path: self.vectors}, about)


@dataclasses.dataclass(frozen=True)
class Trained:
  """Trained tensors read from a file: what `evaluate` and `infer` hand to the frozen model.

  Attributes:
    tensors: name -> array.
    about: the file's metadata.
  """

  tensors: Flat
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def prompt(self) -> SavedPrompt | None:
    """Returns the prompt among the tensors, if there is one."""
    path = next((path for path in PROMPTS.values() if path in self.tensors), None)
    if path is None:
      return None
    name = self.about.get('placement', 'before')
    if name not in layouts.PLACEMENTS:
      raise ValueError(f'The prompt was saved with the unknown placement {name!r}.'
                       f'{trees.nearest(name, layouts.PLACEMENTS)}')
    return SavedPrompt(self.tensors[path], layouts.PLACEMENTS[name], Visibility(**self.about.get('visibility', {})),
                       self.about, path)

  def layout(self) -> layouts.Layout:
    """Returns how examples are laid out."""
    prompt, of_layers = self.prompt(), self._layer_prompts()
    if of_layers:
      return layout_of(next(iter(of_layers.values())).shape[1], self._mode())
    return layouts.Layout() if prompt is None else prompt.layout()

  def _layer_prompts(self) -> Flat:
    return {name: array for name, array in self.tensors.items() if name in NAMES.values()}

  def _mode(self) -> str:
    """Returns the mode of layer prompts; an encoder's have but one."""
    return self.about.get('mode', 'add' if NAMES['encoder'] in self.tensors else 'replace')

  def conditioning(self, model: LanguageModel) -> Conditioning:
    """Returns what the model is handed.

    Raises:
      ValueError: the tensors do not fit the model.
    """
    prompt, given = self.prompt(), {}
    if prompt is not None:
      if prompt.vectors.shape[1] != model.width:
        raise ValueError(f'The prompt has shape {tuple(prompt.vectors.shape)}, but the model wants [P, {model.width}]. '
                         'Choose one that was trained for this model.')
      given[model.prompted] = StackConditioning(prompt=jnp.asarray(prompt.vectors)[None], visibility=prompt.visibility)
    prefix = {name: jnp.asarray(array) for name, array in self.tensors.items() if is_prefix(name)}
    if prefix:
      check_prefix(prefix, model.prefix_shapes())
      found = prefixes(prefix)
      given = {'encoder': found.encoder, 'decoder': found.decoder} | given
    of_layers = self._layer_prompts()
    if of_layers:
      check_layer_prompts(of_layers, self._mode(), model)
      given[model.prompted] = getattr(layer_prompts(of_layers, self._mode()), model.prompted)
    used = {*PROMPTS.values(), *NAMES.values(), *prefix}
    rest = {name: array for name, array in self.tensors.items() if name not in used}
    updates = low_rank_updates({name: array for name, array in rest.items() if is_low_rank(name)})
    copies = {name: array for name, array in rest.items() if not is_low_rank(name)}
    return Conditioning(**given, parameters=copies | updates)


def _files_of_run(folder: str) -> Iterator[str]:
  """Yields paths at which a run's folder may hold what was trained, the most wanted first."""
  yield storage.join(folder, BEST)
  yield storage.join(folder, LAST)
  saved = storage.join(folder, 'numpy_checkpoints')
  try:
    names = storage.list_folder(saved)
  except (ImportError, PermissionError):  # a bucket may give everyone what it holds, but not say what that is
    return
  found = map(re.compile(r'checkpoint_(\d+)').fullmatch, names)
  for step in sorted((int(match.group(1)) for match in found if match), reverse=True):
    for name in PROMPTS.values():
      yield storage.join(saved, f'checkpoint_{step}', name.replace('/', '.'))


def load_trained(path: str) -> Trained:
  """Returns the trained tensors of a file, or of a run's folder (the best if the run kept one, else the last).

  The folder may be that of a run of T5X, which keeps prompts as NumPy files.

  Raises:
    FileNotFoundError: there is nothing at `path`.
    ValueError: the file is damaged.
  """
  if not storage.is_file(path):
    found = next(filter(storage.exists, _files_of_run(path)), None)
    if found is None and os.path.isdir(path):
      raise FileNotFoundError(f'{path} holds neither {BEST} nor {LAST}. Give the MODEL_DIR of a run that has saved '
                              'something, or a prompt file.')
    path = found or path
  if str(path).endswith('.safetensors'):
    return Trained(*read_state(path))
  vectors = read_prompt(path)
  if storage.read_bytes(path).startswith(MAGIC):
    return Trained({PATH: vectors})
  return Trained(*read_state(path))  # by another name; it also says where the prompt stands


def load_prompt(path: str) -> SavedPrompt:
  """Returns a prompt from a `.npy` file, a file of `SavedPrompt.save`, or a run's folder.

  Raises:
    FileNotFoundError: there is nothing at `path`.
    ValueError: the file is damaged or holds no prompt.
  """
  prompt = load_trained(path).prompt()
  if prompt is None:
    raise ValueError(f'{path} holds retrained parameters, no prompt. Use `load_trained`, or `eval` with it.')
  return prompt
