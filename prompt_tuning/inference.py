"""Using what was trained: saved prompts and other trained tensors, and answers for whole files."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from prompt_tuning import layouts, multihost, storage, trees
from prompt_tuning.checkpoints.prompt_files import MAGIC, read_prompt, write_numpy_prompt
from prompt_tuning.checkpoints.state import read_state, write_state
from prompt_tuning.conditioning import Conditioning, StackConditioning, Visibility
from prompt_tuning.data.pipeline import EvalBatches, eval_batches
from prompt_tuning.models.generation import Sampler, generate
from prompt_tuning.models.language_model import LanguageModel, score_batch
from prompt_tuning.prompts import PATH, PROMPTS
from prompt_tuning.tuning.layer_prompts import NAMES, check_layer_prompts, layer_prompts, layout_of
from prompt_tuning.tuning.low_rank import is_low_rank, low_rank_updates
from prompt_tuning.tuning.prefix import check_prefix, is_prefix, prefixes
from prompt_tuning.types import Array, Flat

BEST, LAST = 'best.safetensors', 'last.safetensors'  # in a run's folder


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


def generate_answers(model: LanguageModel, conditioning: Conditioning, batches: EvalBatches, *, sampler: Sampler,
                     max_length: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields tokens [N, S] and scores [N] for each example in turn, the best last."""
  for batch, examples in batches.questions():
    tokens, scores = generate(model.module, model.params, batch, conditioning, jax.random.key(seed), sampler=sampler,
                              max_length=max_length, end_ids=model.end_ids)
    yield from zip(np.asarray(tokens)[:len(examples)], np.asarray(scores)[:len(examples)], strict=True)


def score_targets(model: LanguageModel, conditioning: Conditioning, batches: EvalBatches) -> Iterator[float]:
  """Yields the log-likelihood of each example's target in turn."""
  for batch, examples in batches:
    scores = np.asarray(score_batch(model.module, model.params, batch, conditioning))
    yield from scores[:len(examples)].tolist()


def infer(model: LanguageModel, trained: Trained, examples: Sequence[Mapping[str, Any]], *, sampler: Sampler,
          lengths: Mapping[str, int] | None = None, batch_size: int = 32, mode: str = 'predict',
          max_length: int = 64, seed: int = 0) -> Iterator[dict[str, Any]]:
  """Yields a line of output for each example, in order, in the shape of T5X's inference files.

  Args:
    model: the frozen model, with a vocabulary.
    trained: what it is handed.
    examples: with 'inputs', and with 'targets' where they are scored.
    sampler: how tokens are chosen.
    lengths: most tokens of 'inputs' and 'targets'; what is absent is the longest found.
    batch_size: rows run together.
    mode: 'predict', 'predict_with_aux' (adds scores) or 'score' (log-likelihood of the targets).
    max_length: the most tokens of an answer.
    seed: for samplers that draw.

  Raises:
    ValueError: the mode is unknown, or targets are missing.
  """
  if mode not in ('predict', 'predict_with_aux', 'score'):
    raise ValueError(f'The mode is {mode!r}. Choose predict, predict_with_aux or score.')
  if mode == 'score' and any('targets' not in example for example in examples):
    raise ValueError('The mode score needs targets, but an example has none. Add them, or use the mode predict.')
  conditioning = trained.conditioning(model)
  batches = eval_batches(examples, model.vocabulary, model.layout(trained.layout()), batch_size=batch_size,
                         lengths=lengths)
  cut = batches.truncated
  if cut['inputs'] or cut['targets']:
    logging.warning('Of %d examples, %d inputs and %d targets are longer than %s and were cut.', cut['examples'],
                    cut['inputs'], cut['targets'], dict(lengths or {}))
  if mode == 'score':
    for example, score in zip(examples, score_targets(model, conditioning, batches), strict=True):
      yield {'inputs': readable(example, model.vocabulary), 'score': score}
    return
  answers = generate_answers(model, conditioning, batches, sampler=sampler, max_length=max_length, seed=seed)
  for example, (tokens, scores) in zip(examples, answers, strict=True):
    line = {'inputs': readable(example, model.vocabulary), 'prediction': model.vocabulary.decode(tokens[-1].tolist())}
    if mode == 'predict_with_aux':
      line['aux'] = {'scores': float(scores[-1])}
    yield line


def json_line(line: Mapping[str, Any], number: int) -> str:
  """Returns a line of output as JSON."""
  return json.dumps(line, ensure_ascii=False, default=_as_python)


def text_line(line: Mapping[str, Any], number: int) -> str:
  """Returns `id||text` of an answer, its white space as single blanks; examples without an 'id' have their number."""
  return f'{line["inputs"].get("id", number)}||{" ".join(line["prediction"].split())}'


def write_lines(path: str, lines: Iterator[Mapping[str, Any]],
                spell: Callable[[Mapping[str, Any], int], str] = json_line) -> int:
  """Writes lines, as JSON unless `spell` says how, so that the file is there whole or not at all; returns how many.

  On hosts other than the main one they are computed and not written.
  """
  if not multihost.is_main():
    return sum(1 for _ in lines)
  count = 0
  with storage.whole_file(path) as temporary, open(temporary, 'w', encoding='utf-8') as file:
    for line in lines:
      file.write(spell(line, count) + '\n')
      count += 1
  return count


def text_of(example: Mapping[str, Any], feature: str, vocabulary: Any) -> str:
  """Returns the text of an example's 'inputs' or 'targets', as it was before it became token ids if that is kept."""
  value = example.get(f'{feature}_pretokenized', example.get(feature, ''))
  if isinstance(value, bytes):
    return value.decode()
  return value if isinstance(value, str) else vocabulary.decode(np.asarray(value).tolist())


def readable(example: Mapping[str, Any], vocabulary: Any) -> dict[str, Any]:
  """Returns an example as T5X's files show it: its texts are `inputs_pretokenized` and `targets_pretokenized`."""
  shown = {f'{feature}_pretokenized': text_of(example, feature, vocabulary)
           for feature in ('inputs', 'targets') if feature in example}
  hidden = ('inputs', 'targets', 'inputs_ends', 'targets_ends')
  return shown | {name: value for name, value in example.items() if name not in hidden and name not in shown}


def _as_python(value: Any) -> Any:
  """Returns what JSON has instead of a value that it lacks."""
  if isinstance(value, bytes):
    return value.decode(errors='replace')
  return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
