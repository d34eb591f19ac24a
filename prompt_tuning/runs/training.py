"""Executes a run that trains: builds its objects, trains, and prints the metrics before and after."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from prompt_tuning import trees
from prompt_tuning.data.buckets import usual_length
from prompt_tuning.data.pipeline import eval_batches
from prompt_tuning.data.target_checks import check_targets, require_labels_of_head
from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.data.turn_checks import check_turns
from prompt_tuning.devices import multihost
from prompt_tuning.evaluation import saved
from prompt_tuning.files import json_files, progress, storage, terminal
from prompt_tuning.losses import Loss
from prompt_tuning.models import new_layers
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.runs import first_values, heading, objects, result_table, run_file
from prompt_tuning.runs.base import Run
from prompt_tuning.runs.train_run import TrainRun
from prompt_tuning.training import lock, loop, metric_log, run_files
from prompt_tuning.training.evaluations import Evaluations, Evaluator, require_objective
from prompt_tuning.training.members import Member
from prompt_tuning.training.metric_log import Silence
from prompt_tuning.training.optimizers import Optimizer
from prompt_tuning.training.settings import Saving, Stop
from prompt_tuning.training.trackers import Tracker, make_tracker
from prompt_tuning.tuning import rates
from prompt_tuning.tuning.method import Method

_IN_SCALE = ('adafactor', 'adamw')  # optimizers whose updates have the size of their rate


@dataclasses.dataclass(frozen=True)
class Training:
  """The objects of a run that trains.

  Attributes:
    described: the run's values.
    model: the frozen model.
    method: the tuning method.
    task: the task that is learnt.
    lengths: most tokens of 'inputs' and 'targets'.
    buckets: further lengths that the inputs of a batch may have.
    evaluations: what is evaluated during training.
    optimizer: updates the trained tensors.
    loss: what is minimised.
    tracker: takes the figures too, or None.
  """

  described: TrainRun
  model: LanguageModel
  method: Method
  task: Task | Mixture
  lengths: Mapping[str, int]
  buckets: tuple[int, ...] | None
  evaluations: Evaluations
  optimizer: Optimizer
  loss: Loss
  tracker: Tracker | None = None

  def run(self, *, config_text: str = '', command: str = '') -> loop.Run:
    """Trains, or resumes the run in its folder; returns the finished run.

    Args:
      config_text: the run's gin configuration, for `config.gin`.
      command: the beginning of the next commands, such as 'prompt-tuning'; '' prints no table.
    """
    with lock.held(self.described.output):
      return self._run(config_text, command)

  def _run(self, config_text: str, command: str) -> loop.Run:
    run, model = self.described, self.model
    before = self.before() if run.compare else {}
    ended = loop.train(
      model=model, method=self.method, task=self.task, lengths=self.lengths, model_dir=run.output,
      train_steps=objects.end(run, model.step), optimizer=self.optimizer, loss=self.loss, batch_size=run.batch_size,
      microbatches=run.microbatches, seed=run.seed, packed=run.packed, buckets=self.buckets, split=run.split,
      evaluations=self.evaluations, saving=Saving(run.saving_period, run.keep), log_period=run.log_period,
      cache_limit=run.cache_limit, settings=run.decides(), profile=run.profile, extend=run.extend, tracker=self.tracker,
      start_from=None if run.start_from is None else saved.load_trained(run.start_from),
      stop=None if run.stop_accuracy is None else Stop(run.stop_accuracy, run.stop_examples),
      files={**self._run_file(), **({'config.gin': config_text} if config_text else {})})
    if run.check_frozen:
      self._check_frozen()
    if command and multihost.is_main():
      terminal.show(result_table.table(ended, before, self.method, command))
    return ended

  def _run_file(self) -> dict[str, str]:
    """Returns name and text of the file that repeats the run."""
    told = dataclasses.replace(self.described, max_target_length=self.lengths['targets'])  # of later predictions
    return {run_file.NAME: run_file.text(told.given(), program='train')}

  def member(self, name: str) -> Member:
    """Returns the run as a member of several that share the model."""
    run = self.described
    return Member(
      name=name, method=self.method, task=self.task, lengths=self.lengths, model_dir=run.output,
      train_steps=objects.end(run, self.model.step), optimizer=self.optimizer, batch_size=run.batch_size,
      seed=run.seed, packed=run.packed, buckets=self.buckets, split=run.split, evaluations=self.evaluations,
      settings=run.decides(), files=self._run_file(),
      start_from=None if run.start_from is None else saved.load_trained(run.start_from))

  def before(self) -> dict[str, float]:
    """Returns the frozen model's own metrics; for a resumed run, those from when it began."""
    path = storage.join(self.described.output, run_files.BEFORE)
    content = multihost.from_main(storage.read_bytes(path) if multihost.is_main() and storage.exists(path) else None)
    if content is not None:
      return json_files.numbers_of(json.loads(content))
    evaluator = Evaluator(self.model, self.task, self.lengths, self.described.batch_size, self.loss, self.evaluations,
                          split=self.described.split)
    with phase('Evaluating the frozen model alone'):
      found = evaluator(lambda task: Conditioning(), self.model.layout(), self.model.step, Silence())
    if multihost.is_main():
      storage.write_bytes(path, json_files.spelled(found).encode())
    return found

  def _check_frozen(self) -> None:
    """Prints that nothing frozen has changed.

    Raises:
      RuntimeError: something has, which is a bug in this package.
    """
    again = objects.load_model(dataclasses.replace(self.described, new_layers=None), mesh=self.model.module.config.mesh)
    count, names = new_layers.changed(self.model, again)
    if names:
      raise RuntimeError(f'{len(names)} of {count} frozen arrays have changed, such as {names[0]}. Report this bug.')
    if multihost.is_main():
      print(f'All {count} frozen arrays are unchanged to the last bit.')


def run(described: TrainRun) -> loop.Run:
  """Trains, or resumes the run in its folder; returns the finished run."""
  return build(described).run()


def build(run: TrainRun, model: LanguageModel | None = None, task: Task | Mixture | None = None) -> Training:
  """Returns the objects of a run.

  Args:
    run: its values.
    model: its frozen model, if it was read before, for several runs; then no rate is a reason to warn.
    task: its task, likewise.

  Raises:
    ValueError, OSError, ImportError: something does not fit or cannot be read; the message says what to change.
  """
  alone = model is None
  if alone:
    objects.check_output(run.output)
    say_new_folder(run.output)
  words = objects.vocabulary(run)
  task = objects.task(run) if task is None else task
  chosen = evaluations(run, task)
  objects.optimizer(run, 0)  # errors are found before the model is read
  tracker = make_tracker(run.tracker.name, run.tracker.options) if multihost.is_main() else None
  first_values.read_files(run)
  if run.new_layers is None:  # with new layers, the vocabulary is known only with them
    objects.loss(run, words)
  model = read_model(run) if alone else model
  run = heading.complete(run, model)
  method = heading.method(method_of(run, model, task), model)
  if run.trainable is not None or run.start_from is not None:
    shapes = jax.eval_shape(lambda: method.initialise(jax.random.key(0), model))
    objects.require_trainable(run, model, trees.flatten(shapes))
    require_start(run, method, model, shapes)
  longest, buckets = lengths(run, model, task)
  check_turns(task, run.split, model.layout(method.layout()), longest)
  check_targets(task, run.split, model.vocabulary, model.layout(), longest, refuse=True)
  if method.layout().cached:  # inputs are not part of the rows
    buckets = run.buckets
  return Training(run, model, method, task, longest, buckets, chosen,
                  optimizer(run, method, model, warn=alone), objects.loss(run, model.vocabulary, model), tracker)


def method_of(run: TrainRun, model: Any, task: Task | Mixture | None = None) -> Method:
  """Returns the tuning method of a run that trains, for its tasks: those of `task`, which is read unless given.

  Raises:
    ValueError: see `objects.method`; or two tasks that need prompts of their own have one name.
  """
  made = objects.method(run.method, model)
  if made.tasks is None:
    return made
  return made.of_tasks([part.name for part, _ in (task or objects.task(run)).parts(run.split)])


def optimizer(run: TrainRun, method: Method, model: Any, *, warn: bool = True) -> Optimizer:
  """Returns the optimizer of a run for a method and a model; if asked, warns of a rate that suits neither."""
  rate = method.rate(model)
  far = rates.warning(run.learning_rate or rate, rate)
  if warn and far is not None and run.optimizer.name in _IN_SCALE:
    say(f'Warning: {far}')
  return objects.optimizer(run, model.step, rate)


def read_model(run: Run) -> LanguageModel:
  """Reads a run's frozen model, and prints that. Raises what `objects.load_model` raises."""
  with phase(f'Reading {run.model or "a model of random weights"}'):
    return objects.load_model(run)


def require_start(run: TrainRun, method: Method, model: Any, shapes: Any) -> None:
  """Raises ValueError if the file that a run starts from does not hold tensors of the shapes that its method trains."""
  if run.start_from is None:
    return
  found = saved.load_trained(run.start_from)
  try:
    run_files.started_from(found, method, shapes, model)
  except ValueError as error:
    raise ValueError(f'start_from={run.start_from} cannot be used. {error}') from error


def evaluations(run: TrainRun, task: Task | Mixture) -> Evaluations:
  """Returns what is evaluated during a run that learns `task`.

  Raises:
    ValueError: the split to evaluate on has no example, or the task or the sampler cannot be found.
  """
  other = run.evaluation_data
  evaluated = task if other is None or other == run.data else objects.task(run, other)
  split = run.evaluation_split or evaluated.judged_split()
  if run.loss_steps or run.evaluation_examples != 0:
    evaluated.parts(split)  # an error now, rather than after a thousand steps
  given = {'inputs': run.evaluation_max_input_length, 'targets': run.evaluation_max_target_length}
  chosen = Evaluations(
    task=None if evaluated is task else evaluated, split=split,
    period=run.steps_between_evaluations, loss_steps=run.loss_steps,
    examples=run.evaluation_examples, written=run.written_examples,
    lengths={name: length for name, length in given.items() if length} or None, sampler=objects.sampler(run),
    objective=run.objective, patience=run.patience)
  if chosen.anything:
    require_objective(run.objective, evaluated, chosen)
  return chosen


def lengths(run: TrainRun, model: LanguageModel, task: Task | Mixture) -> tuple[dict[str, int], tuple[int, ...] | None]:
  """Returns the most tokens of 'inputs' and 'targets', and the buckets: the given ones, else what `measure` finds."""
  given = objects.lengths_given(run) or {}
  if len(given) == 2:
    return given, run.buckets
  found, buckets = measure(model, task, run.split)
  free = run.buckets is None and not run.packed and 'inputs' not in given
  return {**found, **given}, buckets if free else run.buckets


def measure(model: LanguageModel, task: Task | Mixture, split: str) -> tuple[dict[str, int], tuple[int, ...] | None]:
  """Returns lengths and buckets for the first thousand examples of each task.

  Returns:
    The most tokens of 'inputs' and 'targets'; and, if a few inputs are far longer than the rest, a bucket of the
    rest's length, so that most batches are not padded to the longest; else None.
  """
  found, counts = {'inputs': 1, 'targets': 1}, []
  for each, _ in task.parts(split):
    examples = each.split(split)
    require_labels_of_head(each, split, model.layout(Layout()))
    batches = eval_batches(examples, model.vocabulary, model.layout(Layout()), batch_size=1000,
                           num_examples=min(1000, len(examples)))
    found = {name: max(length, batches.texts[name]) for name, length in found.items()}
    counts += batches.input_lengths
  usual = usual_length(counts)
  return found, None if usual is None else (usual,)


def say(text: str) -> None:
  """Prints a line about the progress, on the main host."""
  if multihost.is_main():
    terminal.say(text)


@contextlib.contextmanager
def phase(text: str, *, compiles: bool = False) -> Iterator[None]:
  """Shows how far a phase is and how long it took, on the main host; if asked, what compiling took of it."""
  made = metric_log.phase_that_compiles if compiles else metric_log.phase
  with progress.display(quiet=not multihost.is_main()) as display, made(text, display):
    yield


def say_new_folder(output: str) -> None:
  """Says that a run's parent folder will be created if it does not exist, because the path may be a typo."""
  parent = os.path.dirname(output.rstrip('/'))
  if parent and not storage.is_remote(output) and not os.path.exists(parent):
    say(f'The folder {parent} does not exist yet; it will be created.')
