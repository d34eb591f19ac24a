"""The short way: `tune` and `evaluate`, with defaults that work."""

import dataclasses
import inspect
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from prompt_tuning import prompts
from prompt_tuning.checks import require_type, typed
from prompt_tuning.data import tasks
from prompt_tuning.data.pipeline import eval_batches
from prompt_tuning.decoding.samplers import Greedy, Sampler
from prompt_tuning.devices import multihost
from prompt_tuning.evaluation.ensembles import evaluate_trained
from prompt_tuning.evaluation.predictions import conditioned, label_answers
from prompt_tuning.evaluation.sources import Source, rank
from prompt_tuning.files import progress
from prompt_tuning.losses import make_loss
from prompt_tuning.models import heads
from prompt_tuning.models.ensembles import Ensemble
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.names import require_known, require_number
from prompt_tuning.runs import heading
from prompt_tuning.runs.given import Examples, as_task, as_trained, is_rows
from prompt_tuning.runs.training import measure
from prompt_tuning.training import loop, many
from prompt_tuning.training.members import Member
from prompt_tuning.training.optimizers import Adafactor
from prompt_tuning.training.running import MemberRun
from prompt_tuning.training.schedules import create_schedule
from prompt_tuning.tuning import rates
from prompt_tuning.tuning.method import Method

_WHOLE = ('loss', 'microbatches', 'saving', 'log_period')  # what runs share that are trained together
_ALONE = ('stop', 'profile', 'extend', 'cache_limit', 'model_dir', 'quiet', 'tracker')  # what they cannot have


@typed
def tune(model: LanguageModel, examples: Examples, *, method: Method | None = None,
         prompt_length: int | None = None, steps: int = 1000, batch_size: int = 32, learning_rate: float | None = None,
         validation: Examples | None = None, lengths: Mapping[str, int] | None = None, metrics: Any = None,
         model_dir: str | None = None, seed: int = 0, quiet: bool = False, **settings: Any) -> loop.Run:
  """Tunes a prompt, or the tensors of another method, for a frozen model.

  A model with a classification head (`with_head`) trains its head too; targets are then labels or numbers.

  Args:
    model: the frozen model.
    examples: the training examples: a task or its name; a file (.jsonl, .tsv, .csv, .parquet), `hf://datasets/…`, a
      DataFrame or a dataset with the columns `inputs` and `targets`, or `messages`; or a list of such dicts or of
      pairs, of texts or token ids. Other columns have no meaning; `FileTask` reads columns of other names, and loss
      weights.
    method: the tuning method; None means a prompt that starts from sampled rows of the embedding.
    prompt_length: P, if no method is given; None means 20.
    steps: the number of training steps.
    batch_size: examples per step.
    learning_rate: of Adafactor, which falls linearly to 0 at the last step; None means the method's for this model,
      `method.rate(model)`. An `optimizer` has its own.
    validation: the examples to evaluate on; None means the task's validation split; of ten or more rows that are not
      a task, a tenth is held out; if there is neither, the training examples, and the printed figures say so.
    lengths: maximum tokens of 'inputs' and 'targets'; None means the longest of the first thousand examples, with
      buckets if few inputs are far longer than the rest.
    metrics: a metric, or several: names, or functions `(targets, predictions)` that return a number, or numbers by
      name; None means those of a task, and the accuracy of rows.
    model_dir: the run's folder; None means a new temporary one. An existing run is resumed.
    seed: of initial values, order and dropout.
    quiet: print nothing.
    **settings: further arguments of `training.loop.train`, such as `optimizer`, `evaluations` and `packed`.

  Returns:
    The run; `.prompt` is the best prompt, `.metrics` are those of the last evaluation.
  """
  return loop.train(**_arguments(model, examples, method=method, prompt_length=prompt_length, steps=steps,
                                 batch_size=batch_size, learning_rate=learning_rate, validation=validation,
                                 lengths=lengths, metrics=metrics,
                                 model_dir=model_dir or tempfile.mkdtemp(prefix='prompt_tuning_'), seed=seed,
                                 quiet=quiet, **settings))


@typed
def tune_many(model: LanguageModel, specs: Sequence[Mapping[str, Any]], *, model_dir: str | None = None,
              halving: int | None = None, at_once: int | None = None, quiet: bool = False,
              **shared: Any) -> list[MemberRun]:
  """Tunes many prompts, or tensors of another method, in one run; each becomes what `tune` makes of it alone.

  Args:
    model: the frozen model.
    specs: what each has of its own: arguments of `tune`, such as `examples`, `prompt_length`, `learning_rate` and
      `seed`, and `name`, which is made of what varies unless it is given.
    model_dir: the folder of their common state, with a folder for each; None means a new temporary one. Existing runs
      are resumed.
    halving: f of successive halving: at a few steps, of n that are left only the best n / f continue.
    at_once: how many are run at once, see `training.many.train_many`.
    quiet: print nothing.
    **shared: arguments of `tune` that are the same for all. Of them, `loss`, `microbatches`, `saving` and `log_period`
      cannot be in `specs`.

  Returns:
    The runs, in the order of `specs`.

  Raises:
    ValueError: runs cannot be trained together; the message names one, and says why.
  """
  whole = {name: shared.pop(name) for name in _WHOLE if name in shared}
  shared |= {name: list(shared[name]) for name in ('examples', 'validation') if hasattr(shared.get(name), '__next__')}
  folder = model_dir or tempfile.mkdtemp(prefix='prompt_tuning_')
  members = []
  for i, (spec, name) in enumerate(zip(specs, _names(specs), strict=True)):
    given = {**shared, **spec}
    given.pop('name', None)
    wrong = next((each for each in given if each in (*_WHOLE, *_ALONE)), None)
    if wrong is not None:
      raise ValueError(f'specs[{i}] ({name}) has {wrong}={given[wrong]!r}, ' + (
        'which all share. Give it once, to tune_many().' if wrong in _WHOLE else
        'which only a run alone can have. Leave it out, or use tune().'))
    if 'examples' not in given:
      raise ValueError(f'specs[{i}] ({name}) has no examples. Give examples= there, or once for all.')
    examples = given.pop('examples')
    found = _arguments(model, examples, **given, model_dir=os.path.join(folder, name))
    members.append(Member(name=name, **{key: value for key, value in found.items() if key not in ('model', 'quiet')}))
  return many.train_many(model=model, members=members, model_dir=folder, halving=halving, at_once=at_once,
                         quiet=quiet, **whole)


def _names(specs: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns the name of each spec: the given one, or its plain values that vary, or its number."""
  plain = lambda value: isinstance(value, int | float | str)
  keys = dict.fromkeys(key for spec in specs for key, value in spec.items() if plain(value) and key != 'name')
  varied = [key for key in keys if len({repr(spec.get(key)) for spec in specs}) > 1]
  made = [spec.get('name') or ','.join(
    f'{key}={spec[key]}' for key in varied if plain(spec.get(key))).replace('/', '-')[:180] for spec in specs]
  return [name if name and made.count(name) == 1 else f'{name},{i}'.lstrip(',') for i, name in enumerate(made)]


@typed
def _arguments(model: LanguageModel, examples: Examples, *, method: Method | None = None,
               prompt_length: int | None = None, steps: int = 1000, batch_size: int = 32,
               learning_rate: float | None = None, validation: Examples | None = None,
               lengths: Mapping[str, int] | None = None, metrics: Any = None, model_dir: str, seed: int = 0,
               quiet: bool = False, **settings: Any) -> dict[str, Any]:
  """Returns the arguments of `loop.train` for those of `tune`."""
  own, further = (inspect.signature(function).parameters for function in (tune, loop.train))
  require_known(settings, [name for name in {**own, **further} if name not in ('settings', 'task', 'train_steps')],
                'tune()', 'argument')
  require_number('steps', steps, least=1, whole=True)
  require_number('prompt_length', prompt_length, least=1, whole=True, none=True)
  if method is not None and prompt_length is not None:
    raise ValueError(f'prompt_length={prompt_length} cannot be used with method=, which has a length of its own. Leave '
                     'one of them out.')
  require_number('learning_rate', learning_rate, above=0, none=True)
  chosen = settings.get('evaluations', loop.Evaluations())
  require_type('evaluations', chosen, loop.Evaluations)
  held_out = 0.1 if validation is None and chosen.task is None and chosen.split == 'validation' and (
    chosen.anything) else 0.0
  head = heads.described(model)
  task = as_task(examples, 'train', model, lengths, held_out=held_out, metrics=metrics)
  judged = None if validation is None else as_task(validation, 'validation', model, lengths, metrics=metrics)
  if method is None:
    rows = model.embeddings()
    method = prompts.PromptTuning(prompts.Prompt(
      prompt_length or 20, prompts.from_sample_of_embeddings(rows, min(5000, len(rows)))))
  method = heading.method(method, model)
  if head and head['problem'] != 'single':
    settings.setdefault('loss', make_loss(heading.LOSSES[head['problem']], {}))
  if lengths is None:
    lengths, buckets = measure(model, task, 'train')
    if buckets is not None and not settings.get('packed'):
      settings.setdefault('buckets', buckets)
  if 'evaluations' not in settings:
    settings['evaluations'] = loop.Evaluations(
      task=judged, split=(judged or task).judged_split(), period=max(1, steps // 4), loss_steps=4, examples=200,
      sampler=Greedy())
  elif judged is not None:
    settings['evaluations'] = dataclasses.replace(settings['evaluations'], task=judged)
  advised = method.rate(model)
  if (far := rates.warning(learning_rate or advised, advised)) is not None:
    logging.warning('%s', far)
  if 'optimizer' not in settings:
    settings['optimizer'] = Adafactor(create_schedule(
      'linear_decay', learning_rate or advised, warmup_steps=model.step,
      total_steps=model.step + steps))
  elif learning_rate is not None:
    raise ValueError(f'learning_rate={learning_rate} cannot be used with optimizer=, which has a rate of its own. '
                     'Leave one of them out.')
  return {'model': model, 'method': method, 'task': task, 'lengths': lengths, 'train_steps': model.step + steps,
          'batch_size': batch_size, 'model_dir': model_dir, 'seed': seed, 'quiet': quiet, **settings}


@typed
def evaluate(model: LanguageModel, examples: Examples, prompt: Any = None, *,
             sampler: Sampler = Greedy(), split: str | None = None, batch_size: int = 32,
             num_examples: int | None = None, metrics: Any = None, quiet: bool = False) -> dict[str, float]:
  """Returns the task's metrics for a frozen model, with or without a prompt.

  Args:
    model: the frozen model.
    examples: as for `tune`.
    prompt: a saved prompt, an array [P, D], `saved.Trained` tensors, a run, or a path: of a run, a .npy or .safetensors
      file, or a PEFT adapter; or an `Ensemble` of these. None evaluates the frozen model alone.
    sampler: chooses the tokens.
    split: the split of a task, or of a dict of splits, 'validation' if None; of rows, all are used.
    batch_size: rows per batch.
    num_examples: evaluate on only this many examples, from the first.
    metrics: as for `tune`.
    quiet: show no progress.

  Raises:
    ValueError: a split of rows is given, or there is no such split.
  """
  if split is not None and is_rows(examples):
    raise ValueError(f'split={split!r} cannot be used: the examples are rows, which have none, and are all evaluated. '
                     "Leave it out, or give {'SPLIT': rows}.")
  split = split or 'validation'
  task = as_task(examples, split, model, metrics=metrics)
  if isinstance(prompt, Ensemble):
    trained = dataclasses.replace(prompt, members=[as_trained(each, model) for each in prompt.members])
  else:
    trained = as_trained(prompt, model)
  found: dict[str, float] = {}
  parts = [each for each, _ in task.parts(split)]
  for each, name in zip(parts, tasks.unique_names(parts), strict=True):
    with progress.display(quiet=quiet or not multihost.is_main()) as display, progress.examples_on(
        display, f'Evaluating on {name}'):
      result = evaluate_trained(model, trained, each, sampler=sampler, split=split, batch_size=batch_size,
                                num_examples=num_examples)
    prefix = f'{name}/' if isinstance(task, tasks.Mixture) else ''
    found.update({prefix + metric: value for metric, value in result.metrics.items()})
  return found


@typed
def classify(model: LanguageModel, texts: Sequence[str], prompt: Any = None, *,
             batch_size: int = 32) -> list[dict[str, Any]]:
  """Returns for each text the 'label' that the model's classification head predicts, and the 'scores' of all labels.

  Args:
    model: an encoder-only model with a head.
    texts: the texts.
    prompt: as for `evaluate`; None uses the model's own head alone.
    batch_size: rows per batch.

  Raises:
    ValueError: the model has no head, or the trained tensors belong to another.
  """
  heads.require_head(model)
  require_number('batch_size', batch_size, least=1, whole=True)
  conditioning, layout = conditioned(model, as_trained(prompt, model))
  batches = eval_batches([{'inputs': text} for text in texts], model.vocabulary, layout, batch_size=batch_size)
  return [{'label': label, 'scores': scores}
          for label, scores in label_answers(model, conditioning, batches.questions())]


@typed
def rank_sources(model: LanguageModel, examples: Examples, sources: Mapping[str, Any], *, target: Any = None,
                 by: str = 'loss', num_examples: int = 200, batch_size: int = 32,
                 lengths: Mapping[str, int] | None = None) -> list[Source]:
  """Returns trained prompts by the loss of another task with each, the best first: starts for its training.

  What does not fit the model is left out, with a warning. The frozen model alone is among the results, as ''.

  Args:
    model: the frozen model.
    examples: the target task's training examples, as for `tune`.
    sources: name -> a prompt in a form that `evaluate` takes.
    target: a prompt that was trained shortly on the target task; then results have their similarity to it.
    by: what decides: 'loss', 'token_accuracy' or, with a target, 'similarity'.
    num_examples: so many training examples are read, from the first.
    batch_size: examples per batch.
    lengths: as for `tune`.
  """
  task = as_task(examples, 'train', model, lengths, held_out=0.1)
  require_number('num_examples', num_examples, least=1, whole=True)
  return rank(model, task, {name: as_trained(prompt, model) for name, prompt in sources.items()},
              target=None if target is None else as_trained(target, model), by=by, examples=num_examples,
              batch_size=batch_size, lengths=lengths or measure(model, task, 'train')[0])
