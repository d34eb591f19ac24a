"""Saved tensors: prompts and other trained tensors, in files and in the folders of runs."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning import trees
from prompt_tuning.checkpoints import peft_head
from prompt_tuning.checkpoints.peft import CONFIG, has_prefixes, read_adapter
from prompt_tuning.checkpoints.peft_modules import modules_of
from prompt_tuning.checkpoints.prompt_files import MAGIC, read_prompt, write_numpy_prompt
from prompt_tuning.checkpoints.state import read_state, require_finite, write_state
from prompt_tuning.checks import typed
from prompt_tuning.evaluation import fit_checks, pushing
from prompt_tuning.evaluation.trained_paths import BEST, LAST, file_of, find_trained
from prompt_tuning.files import storage
from prompt_tuning.files.json_files import Fields, fields_of
from prompt_tuning.models import heads
from prompt_tuning.models.families.registry import get_family
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.names import printable
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Conditioning, Visibility
from prompt_tuning.tuning.method import Method, combine, common_layout
from prompt_tuning.tuning.prompt import PATH, Prompt, PromptTuning
from prompt_tuning.tuning.registry import read_methods
from prompt_tuning.types import Array, Flat

# A file that says one of these knows the stack of its prompt; a NumPy file does not.
_OF_STACKS = ('method', 'task_type')
# Further names in a run's folder.
METRICS, PROMPTS_OF_TASKS = 'metrics.jsonl', 'prompts'


class _Seen(Fields, forbid_unknown_fields=True):
  input: bool = True
  prompt: bool = True


class _About(Fields):
  """The metadata of a file that the methods of this package read."""

  placement: str = 'before'
  visibility: _Seen = _Seen()
  mode: str = ''
  tasks: tuple[str, ...] = ()
  made_for: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class SavedPrompt:
  """A trained prompt, with the values that a model needs to use it.

  Attributes:
    vectors: [P, D].
    placement: their position among the input's tokens.
    visibility: the positions that they see.
    about: other metadata of the file: model, task, step, metrics.
    path: the name of its tensor, which determines the stack that it belongs to.
    folder: the local folder that it was read from, whose card `push` takes over.
  """

  vectors: Array
  placement: layouts.Placement = layouts.before
  visibility: Visibility = Visibility()
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  path: str = PATH
  folder: str = dataclasses.field(default='', compare=False)

  def __repr__(self) -> str:
    return (f'SavedPrompt({self.path}, {len(self.vectors)} vectors of width {self.vectors.shape[-1]}, placement '
            f'{self.placement.__name__}{_origin(self.about)})')

  def layout(self) -> layouts.Layout:
    """Returns the layout of examples for this prompt."""
    return self._method().layout()

  def save(self, path: str) -> None:
    """Writes the prompt: as NumPy `[P, D]` if `path` ends in `.npy` (which keeps only the vectors), else as a
    safetensors file with all metadata.

    Raises:
      OSError: the file cannot be written.
    """
    if str(path).endswith('.npy'):
      write_numpy_prompt(path, self.vectors)
    else:
      trained = self.as_trained()
      write_state(path, trained.tensors, trained.about)

  def push(self, name: str, **options: Any) -> str:
    """Writes the prompt to the repository `owner/name` of the Hugging Face hub; see `Trained.push`."""
    return self.as_trained().push(name, **options)

  def conditioning(self, model: LanguageModel) -> Conditioning:
    """Returns the model's conditioning. Raises ValueError if the prompt does not fit the model."""
    # It does not depend on the placement, which may be a function of a user's, without a name in files.
    return dataclasses.replace(self, placement=layouts.before).as_trained().conditioning(model)

  def _method(self) -> PromptTuning:
    return PromptTuning(Prompt(len(self.vectors)), self.placement, self.visibility)

  def as_trained(self) -> 'Trained':
    """Returns the prompt as the tensors of a file."""
    about = {**self.about, 'placement': self.placement.__name__, 'visibility': dataclasses.asdict(self.visibility)}
    return Trained({self.path: self.vectors}, about, self.folder)


@dataclasses.dataclass(frozen=True)
class Trained:
  """Trained tensors read from a file, for `evaluate` and `infer`.

  Attributes:
    tensors: name -> array.
    about: the file's metadata.
    folder: the local folder that they were read from, whose card `push` takes over.
  """

  tensors: Flat
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  folder: str = dataclasses.field(default='', compare=False)

  def __repr__(self) -> str:
    return f'Trained({trees.described(self.tensors)}{_origin(self.about)})'

  def prompt(self) -> SavedPrompt | None:
    """Returns the prompt among the tensors, or None."""
    for method, tensors in self.parts():
      if isinstance(method, PromptTuning):
        ((path, vectors),) = tensors.items()
        return SavedPrompt(vectors, method.placement, method.visibility, self.about, path, self.folder)
    return None

  def parts(self) -> list[tuple[Method, Flat]]:
    """Returns the methods that trained the tensors, each with its tensors.

    Raises:
      ValueError: the tensors do not belong together, or have shapes or metadata that their method never writes.
    """
    try:
      return read_methods(self.tensors, self.about)
    except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
      shapes = ', '.join(f'{printable(name)} {list(np.shape(array))}' for name, array in sorted(self.tensors.items()))
      raise ValueError(f'The trained tensors {shapes} cannot be read ({type(error).__name__}: {error}): expected those '
                       'of a method, with its metadata. Use the version that wrote them, or train again.') from error

  def layout(self) -> layouts.Layout:
    """Returns the layout of examples."""
    return common_layout([method for method, _ in self.parts()])

  def tasks(self) -> tuple[str, ...]:
    """Returns the names of the tasks of which the tensors are prompts; () if they are for any task."""
    return tuple(task for method, _ in self.parts() for task in method.tasks or ())

  def conditioning(self, model: LanguageModel, *, task: str | None = None) -> Conditioning:
    """Returns the model's conditioning, for rows of one task if the tensors are prompts of several.

    Raises:
      ValueError: the tensors do not fit the model, were trained for another one, or are prompts of several other tasks.
    """
    facts = model.facts
    fit_checks.require_same_model(self.about.get('made_for'), facts)
    if self.about.keys() & set(_OF_STACKS):
      fit_checks.require_stack(self.tensors, facts)
    heads.require_same_head(self.about.get('head'), model)
    fit_checks.warn_of_other_weights(self.about.get('weights'), model)
    return combine([(method, method.condition_of(task, trees.unflatten(tensors), facts))
                    for method, tensors in self.parts()])

  def push(self, name: str, **options: Any) -> str:
    """Writes the tensors to the repository `owner/name` of the Hugging Face hub, and returns its address.

    The options and errors are those of `evaluation.pushing.push`: `model`, the base model on the hub, and `private`.
    """
    return pushing.push(self.tensors, self.about, name, folder=self.folder, **options)

  def for_any_model(self) -> 'Trained':
    """Returns the same tensors without the model that they were trained for, for use with any model of its shape."""
    own = ('made_for', 'weights', *_OF_STACKS)
    return dataclasses.replace(self, about={name: value for name, value in self.about.items() if name not in own})


def _origin(about: Mapping[str, Any]) -> str:
  """Returns the metadata that tell prompts of several runs apart, for `repr`."""
  return ''.join(f', {name} {about[name]}' for name in ('model', 'task', 'step') if name in about)


@typed
def load_trained(path: str, *, any_model: bool = False) -> Trained:
  """Returns the trained tensors of a file, or of a run's folder (the best ones if the run kept them, else the last).

  The folder may also belong to a run of T5X, which keeps prompts as NumPy files.

  Args:
    path: the file or folder, or `owner/name` of the Hugging Face hub (`@revision` may follow).
    any_model: ignore the model that the tensors were trained for: use them with any model that they fit.

  Raises:
    FileNotFoundError: there is no such file or folder.
    ValueError: the file is damaged, holds numbers that are not finite, or has metadata that cannot be used.
  """
  path = file_of(path)
  found = _read_trained(path)
  if not storage.is_remote(path):
    found = dataclasses.replace(found, folder=os.path.dirname(path))
  fields_of(path, found.about, _About)
  for name, array in found.tensors.items():
    require_finite(path, name, array)
  return found.for_any_model() if any_model else found


def _read_trained(path: str) -> Trained:
  if str(path).endswith('.safetensors'):
    return Trained(*read_state(path))
  vectors = read_prompt(path)
  if storage.read_bytes(path).startswith(MAGIC):
    return Trained({PATH: vectors})
  return Trained(*read_state(path))  # a safetensors file with another name; it also stores the prompt's placement


def load_for(model: LanguageModel, path: str, *, any_model: bool = False) -> Trained:
  """Returns what `load_trained` does, or the tensors of a PEFT folder, whose names and scale depend on the model.

  Raises:
    FileNotFoundError: there is no such file or folder.
    ValueError: the file is damaged, or the adapter cannot be read for this model.
  """
  path = find_trained(path)
  inside = () if storage.is_remote(path) or not os.path.isdir(path) else os.listdir(path)
  if CONFIG not in inside or BEST in inside or LAST in inside:  # a pushed prompt has both forms
    return load_trained(path, any_model=any_model)
  adapter, facts = read_adapter(path), model.facts
  rules = get_family(facts.family).rules()
  own, head = peft_head.split(adapter, rules)
  adapter = dataclasses.replace(adapter, arrays=own)
  if adapter.is_prefix and not has_prefixes(facts.family):
    raise ValueError(f'{path} holds a prefix of PEFT, which leaves out layers of {model.path} whose heads have another '
                     'shape, or which share keys and values. Train a prefix with this package.')
  layers, kv_heads, head_dim = facts.attentions['decoder']
  tensors = adapter.trained(
    encoder_decoder=facts.prompted == 'encoder', width=facts.width, layers=layers, kv_heads=kv_heads,
    head_dim=head_dim, embedding_scale=facts.embedding_scale,
    modules=modules_of(rules, trees.flatten(model.params), model.module.config)
    if adapter.changes_modules else None)
  return Trained({**tensors, **head}, adapter.about)


@typed
def load_prompt(path: str, *, any_model: bool = False) -> SavedPrompt:
  """Returns a prompt from a `.npy` file, a file of `SavedPrompt.save`, or a run's folder.

  Args:
    path: the file or folder.
    any_model: see `load_trained`.

  Raises:
    FileNotFoundError: there is no such file or folder.
    ValueError: the file is damaged, holds no prompt, or holds other tensors besides, which the prompt needs.
  """
  trained = load_trained(path, any_model=any_model)
  prompt = trained.prompt()
  others = sorted(set(trained.tensors) - {prompt and prompt.path})
  if others:
    raise ValueError(f'{path} holds other trained tensors{" than a prompt" if prompt else ", but no prompt"}: '
                     f'{", ".join(others[:3])}. Read it with `pt.load_trained(path)`, and use that like a prompt.')
  return prompt
