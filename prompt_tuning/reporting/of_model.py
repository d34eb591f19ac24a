"""What only the frozen model can tell of a run: examples, nearest words, how far vectors moved, attention."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from prompt_tuning.data.class_metrics import ClassReport, class_report, ece
from prompt_tuning.data.metric_values import normal
from prompt_tuning.data.pipeline import eval_batches
from prompt_tuning.data.registry import import_module
from prompt_tuning.data.tasks import Task, short_names, with_metrics
from prompt_tuning.evaluation.ensembles import evaluate_trained
from prompt_tuning.evaluation.nearest_words import nearest_words
from prompt_tuning.evaluation.predictions import conditioned
from prompt_tuning.evaluation.saved import Trained, load_trained
from prompt_tuning.models.compiled import attention_weights
from prompt_tuning.reporting.folder import Folder
from prompt_tuning.rows.layouts import target_rows
from prompt_tuning.runs import heading, objects, training
from prompt_tuning.runs.changed_examples import have_changed
from prompt_tuning.runs.eval_run import EvalRun
from prompt_tuning.runs.train_run import TrainRun
from prompt_tuning.training.run_files import started_from

_LABELS = 30  # so many different targets are classes
_ATTENDING = 16  # examples whose attention is averaged


@dataclasses.dataclass(frozen=True)
class Line:
  """One example: its texts, the probability of the prediction, and whether it is right (None if that is unknown)."""

  input: str
  target: str
  prediction: str
  confidence: float | None
  right: bool | None


@dataclasses.dataclass(frozen=True)
class Examined:
  """The examples of one task with a run's tensors.

  Attributes:
    task: its name.
    split: the split.
    metrics: name -> value.
    lines: the examples.
    changed: whether the file holds other examples than when the run was trained.
    classes: what was predicted for each class, or why there are no classes.
    calibration: the expected calibration error in percent; None without classes.
    attention: name of an attention -> [L, H], the share of the attention that the prompt gets; or why there is none.
  """

  task: str
  split: str
  metrics: Mapping[str, float]
  lines: Sequence[Line]
  changed: bool
  classes: ClassReport | str
  calibration: float | None
  attention: Mapping[str, np.ndarray] | str


@dataclasses.dataclass(frozen=True)
class OfModel:
  """What the frozen model tells of a run; a text says why something is missing.

  Attributes:
    examined: its tasks.
    words: for each vector the nearest tokens with their cosines.
    start: name -> first values of the trained tensors.
    weights: bytes of the frozen parameters.
  """

  examined: Sequence[Examined] | str
  words: Sequence[Sequence[tuple[str, float]]] | str
  start: Mapping[str, np.ndarray] | str
  weights: int | None


def read(folder: Folder, *, model: str | None, examples: int, models: dict[str, Any]) -> OfModel:
  """Reads the model of a run and examines the run with it.

  Args:
    folder: the run's.
    model: a model to use instead of that of its run.toml.
    examples: so many examples are predicted.
    models: those that were read before, by what determines them; the run's is added.

  Raises:
    ValueError, OSError, ImportError: the `model` that is given cannot be read or used.
  """
  if folder.trained is None:
    return OfModel(*['The run has not saved its tensors yet.'] * 3, weights=None)
  if not folder.settings:
    why = 'The folder has no run.toml, which names the model and the data; `pt.tune` writes none.'
    return OfModel(why, why, why, weights=None)
  given = {'examples': examples, **({'model': model} if model else {})}
  try:
    described = EvalRun.after(folder.path, given)
    for module in described.imports:
      import_module(module)
    key = model_of(described)
    if key not in models:
      models[key] = training.read_model(described)
    frozen = models[key]
    folder.trained.conditioning(frozen, task=next(iter(folder.trained.tasks()), None))
  except (ValueError, OSError, ImportError) as error:
    if model:
      raise
    return OfModel(*[f'The model cannot be read. {error}'] * 3, weights=None)
  return OfModel(
    examined=_or_why(lambda: _examined(folder, described, frozen)),
    words=_or_why(lambda: nearest_words(frozen, folder.trained, top=min(5, frozen.vocabulary.size))
                  if frozen.vocabulary else 'The model has no vocabulary.'),
    start=_or_why(lambda: _start(folder, frozen, model)),
    weights=sum(array.nbytes for array in jax.tree.leaves(frozen.params)))


def model_of(described: EvalRun) -> str:
  """Returns a text that is the same for runs with the same frozen model."""
  return repr({name: getattr(described, name) for name, field in EvalRun.settings().items()
               if field.metadata['group'] == 'model' or name in ('attention', 'imports')})


def _or_why(make: Callable[[], Any]) -> Any:
  """Returns what a function returns, or the message of its error."""
  try:
    return make()
  except (ValueError, OSError, ImportError) as error:
    return str(error)


def _examined(folder: Folder, described: EvalRun, model: Any) -> list[Examined]:
  trained = folder.trained
  changed = have_changed(folder.settings, trained.about, model)
  tasks = [each for each, _ in objects.task(described).parts(described.split)]
  return [_examine(each, name, described, model, trained, changed)
          for each, name in zip(tasks, short_names(tasks), strict=True)]


def _confidence(targets: Any, predictions: Any, confidences: Any) -> dict[str, float]:
  """Returns no metric: it asks for the probabilities of predictions."""
  return {}


_confidence.needs_confidence = True


def _examine(task: Task, name: str, described: EvalRun, model: Any, trained: Trained, changed: bool) -> Examined:
  lengths = objects.lengths_given(described)
  with training.phase(f'Evaluating {name}', compiles=True):
    result = evaluate_trained(
      model, trained, with_metrics(task, (*task.metrics, _confidence)), sampler=objects.sampler(described),
      split=described.split, lengths=lengths, batch_size=described.batch_size,
      num_examples=described.examples, seed=described.seed or 0)
  lines = [Line(_text(line['input']), _text(line['target']), _text(line['prediction']), line.get('confidence'),
                _is_right(line['target'], line['prediction'])) for line in result.lines]
  classes = _or_why(lambda: _classes(result.lines))
  known = isinstance(classes, ClassReport)
  calibration = ece(*([line[name] for line in result.lines] for name in ('target', 'prediction')),
                    [line['confidence'] for line in result.lines])['ece'] if known else None
  with training.phase('Reading the attention to the prompt'):
    attention = _or_why(lambda: _attention(task, described, model, trained, lengths))
  return Examined(name, described.split, result.metrics, lines, changed, classes, calibration, attention)


def _text(value: Any) -> str:
  """Returns a value of an evaluation as text; of an input its text."""
  if isinstance(value, Mapping):
    value = value.get('inputs_pretokenized', value.get('inputs', value))
  return value if isinstance(value, str) else str(value)


def _is_right(target: Any, prediction: Any) -> bool | None:
  plain = all(isinstance(value, str | int | float) for value in (target, prediction))
  return bool(normal(target) == normal(prediction)) if plain else None


def _classes(lines: Sequence[Mapping[str, Any]]) -> ClassReport:
  targets = [line['target'] for line in lines]
  different = len(set(map(str, targets)))
  if different > min(_LABELS, len(targets) / 2):
    raise ValueError(f'The {len(targets)} examples have {different} different targets, so they are not classes: these '
                     f'are at most {_LABELS} targets, each twice on average.')
  return class_report(targets, [line['prediction'] for line in lines])


def _start(folder: Folder, model: Any, given: str | None) -> dict[str, np.ndarray]:
  """Returns the first values of a run's tensors, drawn again from its seed."""
  seed = folder.trained.about.get('seed')
  if type(seed) is not int:
    raise ValueError('The file of trained tensors does not tell the seed of their first values.')
  described = TrainRun.of({**folder.settings, **({'model': given} if given else {})})
  if described.head is not None:  # drawn from the run's seed, which another evaluation need not have
    model = heading.around(described, model, lambda: objects.task(described))
  method = heading.method(training.method_of(described, model), model)
  first = method.initialise(jax.random.key(seed), model)
  if described.start_from is not None:
    first = started_from(load_trained(described.start_from), method, first, model)
  found = {name: np.asarray(array, np.float32) for name, array in method.export(first, model).items()}
  shapes = lambda tensors: {name: np.shape(array) for name, array in tensors.items()}
  if shapes(found) != shapes(folder.trained.tensors):
    raise ValueError('The first values that run.toml describes have other shapes than the trained tensors.')
  return found


def _attention(task: Task, described: EvalRun, model: Any, trained: Trained,
               lengths: Mapping[str, int] | None) -> dict[str, np.ndarray]:
  """Returns the share of each attention that the prompt gets, [L, H], mean over the tokens of a few examples."""
  examples = task.split(described.split)
  conditioning, layout = conditioned(model, trained, task.name)
  batch, _ = next(iter(eval_batches(examples, model.vocabulary, layout, batch_size=_ATTENDING, lengths=lengths,
                                    num_examples=min(_ATTENDING, described.examples or _ATTENDING))))
  found = {}
  for name, weights in attention_weights(model.module, model.params, batch, conditioning).items():
    reads, _, kind = name.split('/')
    queries = batch.get(reads) or target_rows(batch)
    keys = batch['encoder'] if kind == 'encoder_decoder_attention' else queries
    share = _share(np.asarray(weights, np.float32), queries, keys)
    if share is not None:
      found[name] = share
  if not found:
    raise ValueError('The trained tensors have no positions that tokens could attend to.')
  return found


def _share(weights: np.ndarray, queries: Mapping[str, Any], keys: Mapping[str, Any]) -> np.ndarray | None:
  """Returns [L, H] of weights [L, B, H, T, S], whose first S - T keys are those of a prompt or prefix before the rows.

  None if no key is one of a prompt's.
  """
  slots = lambda rows: np.asarray(rows.get('prompt_slots', np.full(np.shape(rows['tokens']), -1)))
  own = slots(keys) >= 0
  before = weights.shape[-1] - own.shape[1]
  prompt = np.concatenate([np.ones((len(own), before), bool), own], axis=1)
  if not prompt.any():
    return None
  asking = (np.asarray(queries['segments']) > 0) & (slots(queries) < 0)
  shares = np.einsum('lbhts,bs->lbht', weights, prompt.astype(np.float32))
  return np.einsum('lbht,bt->lh', shares, asking.astype(np.float32)) / max(asking.sum(), 1)
