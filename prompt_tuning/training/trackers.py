"""Trackers: what shows the figures of a run elsewhere, in addition to `metrics.jsonl` and TensorBoard's files.

A tracker has three methods, which the main host alone calls:

  start(run)         before the first figures; `run` is a `TrackedRun`. What it returns (a text, or None) identifies the
                     run there, and is `run.id` if the run is resumed.
  log(step, values)  figures by name, such as {'train/loss': 2.5}; steps that a resumed run repeats come twice
  end()              after the last figures

A tracker that fails ends no run: it is said once, and the figures are in `metrics.jsonl`. Weights & Biases, MLflow and
trackio are packages of the user's; `register_tracker` adds others.
"""

import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from prompt_tuning.files import storage
from prompt_tuning.names import Registry, require_known

FILE = 'tracker.json'  # in a run's folder: what identifies the run in its tracker
PROJECT = 'prompt-tuning'
_OURS = ('name', 'id', 'resume', 'config')  # arguments of `wandb.init` and `trackio.init` that a run sets


@dataclasses.dataclass(frozen=True)
class TrackedRun:
  """A run whose figures are tracked.

  Attributes:
    folder: its folder.
    name: the folder's name.
    settings: what decides what it learns, as plain values.
    id: what `start` returned when the run began; None for a new run.
  """

  folder: str
  name: str
  settings: Mapping[str, Any]
  id: str | None = None


class Tracker(Protocol):
  """The interface of a tracker, see above."""

  def start(self, run: TrackedRun) -> str | None:
    """Starts, or resumes, a run."""

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Takes figures of a step."""

  def end(self) -> None:
    """Ends the run."""


class Wandb:
  """Weights & Biases: `pip install wandb`, then `wandb login`.

  Args:
    project: the project there.
    run_name: the run's name there; None is that of its folder.
    **options: further arguments of `wandb.init`, such as entity and tags.
  """

  package = 'wandb'

  def __init__(self, project: str = PROJECT, run_name: str | None = None, **options: Any):
    self._module = _package(self.package)
    taken = next((name for name in options if name in _OURS), None)
    if taken is not None:
      raise ValueError(f'tracker.{taken} of the tracker {self.package} is set by the run. Leave it out'
                       + ('; for the name of the run there, give tracker.run_name.' if taken == 'name' else '.'))
    _require_options(self.package, self._module.init, options, own=('run_name',), hidden=_OURS)
    self._options, self._name = {'project': project, **options}, run_name

  def start(self, run: TrackedRun) -> str:
    """Starts a run, or resumes the one with the same id."""
    self._run = self._module.init(name=self._name or run.name, id=run.id, resume='allow', config=dict(run.settings),
                                  **self._options)
    return str(self._run.id)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Logs figures; those of steps before the last one there are dropped by Weights & Biases."""
    self._run.log(dict(values), step=step)

  def end(self) -> None:
    """Ends the run."""
    self._run.finish()


class Trackio(Wandb):
  """trackio, whose functions are named like those of Weights & Biases: `pip install trackio`; options are likewise."""

  package = 'trackio'

  def start(self, run: TrackedRun) -> str:
    """Starts a run, or resumes the one with the same name."""
    name = run.id or self._name or run.name
    self._module.init(name=name, resume='allow' if run.id else 'never', config=dict(run.settings), **self._options)
    return name

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Logs figures."""
    self._module.log(dict(values), step=step)

  def end(self) -> None:
    """Ends the run."""
    self._module.finish()


class MLflow:
  """MLflow: `pip install mlflow`.

  Args:
    project: the experiment there.
    run_name: the run's name there; None is that of its folder.
    tracking_uri: the server, or a folder; None is MLflow's own setting.
  """

  def __init__(self, project: str = PROJECT, run_name: str | None = None, tracking_uri: str | None = None):
    self._module = _package('mlflow')
    self._project, self._name, self._uri = project, run_name, tracking_uri

  def start(self, run: TrackedRun) -> str:
    """Starts a run with its settings as parameters, or resumes the one with the same id."""
    if self._uri is not None:
      self._module.set_tracking_uri(self._uri)
    self._module.set_experiment(self._project)
    found = self._module.start_run(run_id=run.id, run_name=None if run.id else self._name or run.name)
    if run.id is None:
      self._module.log_params({name: str(value)[:500] for name, value in run.settings.items()})
    return str(found.info.run_id)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Logs figures; characters that names cannot have there become underscores."""
    self._module.log_metrics({re.sub(r'[^\w./ -]', '_', name): value for name, value in values.items()}, step=step)

  def end(self) -> None:
    """Ends the run."""
    self._module.end_run()


TENSORBOARD = 'tensorboard'  # its files are written anyway
TRACKERS: Registry = Registry('tracker', {TENSORBOARD: lambda: None, 'wandb': Wandb, 'mlflow': MLflow,
                                          'trackio': Trackio},
                              ', or register yours with prompt_tuning.register_tracker')
register_tracker = TRACKERS.register
"""Registers a tracker, `register_tracker(name, make)`, and returns `make`, which returns an object with the methods
`start(run)`, `log(step, values)` and `end()`. ValueError if another tracker has the name. `--tracker NAME` then uses
it, with the arguments of `make` as `--tracker.ARGUMENT`."""


def make_tracker(name: str, options: Mapping[str, Any]) -> Tracker | None:
  """Returns the tracker of a name; None for 'tensorboard'.

  Raises:
    ValueError: there is none of this name, or an option cannot be used.
    ImportError: its package is not installed.
  """
  make = TRACKERS.find(name)
  _require_options(name, make, options)
  return make(**options)


def tracker_of(given: Any) -> Tracker | None:
  """Returns a tracker that is given as an object, or by its name, without options; None for None.

  Raises:
    ValueError: it is neither.
    ImportError: its package is not installed.
  """
  if given is None or isinstance(given, str):
    return make_tracker(given or TENSORBOARD, {})
  if isinstance(given, type) or not all(callable(getattr(given, name, None)) for name in ('start', 'log', 'end')):
    raise ValueError(f'tracker= is {given!r:.80}, expected an object with start(run), log(step, values) and end(), or '
                     f'one of {", ".join(TRACKERS)}.')
  return given


def _require_options(name: str, function: Callable[..., Any], options: Mapping[str, Any], *, own: Sequence[str] = (),
                     hidden: Sequence[str] = ()) -> None:
  """Raises ValueError for an option that a function does not take; the message names `own`, and none that is hidden."""
  parameters = inspect.signature(function).parameters.values()
  if not any(each.kind is each.VAR_KEYWORD for each in parameters):
    known = [each.name for each in parameters if each.name not in hidden]
    require_known(options, [*own, *known], f'The tracker {name}', 'option')


class Guarded:
  """A tracker whose failures are said once and end nothing.

  Args:
    tracker: the tracker.
    folder: the run's folder, which keeps what identifies the run there.
    settings: those of the run.
    say: prints a line.
  """

  def __init__(self, tracker: Tracker, folder: str, settings: Mapping[str, Any], say: Callable[[str], None]):
    self._tracker, self._folder, self._settings, self._say = tracker, folder, settings, say
    self._started: bool | None = None  # None until there are figures; False if that failed
    self._lacks, self._said = 0, False

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Hands on the figures of a step; the first ones start the tracker."""
    if self._started is None:
      self._started = self._attempt(self._start)
    if not self._started or not self._attempt(lambda: self._tracker.log(step, values)):
      self._lacks += 1

  def end(self) -> None:
    """Ends the tracker, and says how many lines it lacks."""
    if self._started:
      self._attempt(lambda: self._tracker.end())
    if self._lacks:
      self._say(f'The tracker {self._name} lacks {self._lacks} lines of figures, which metrics.jsonl has.')

  @property
  def _name(self) -> str:
    return type(self._tracker).__name__

  def _start(self) -> None:
    path = storage.join(self._folder, FILE)
    known = json.loads(storage.read_bytes(path)) if storage.exists(path) else {}
    known = known if isinstance(known, dict) and known.get('tracker') == self._name else {}
    name = self._folder.rstrip('/').rpartition('/')[2]
    self._say(f'Starting the tracker {self._name} …')
    found = self._tracker.start(TrackedRun(self._folder, name, self._settings, known.get('id')))
    if found is not None and found != known.get('id'):
      storage.write_bytes(path, json.dumps({'tracker': self._name, 'id': found}).encode())

  def _attempt(self, function: Callable[[], object]) -> bool:
    try:
      function()
    except Exception as error:  # whatever another package raises
      if not self._said:
        reason = str(error).strip().splitlines() or ['']
        self._say(f'The tracker {self._name} failed ({type(error).__name__}: {reason[0]}); the run goes on. All '
                  'figures are in metrics.jsonl.')
      self._said = True
      return False
    return True


def _package(name: str) -> ModuleType:
  """Returns a tracker's package. Raises ImportError without it."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ImportError(f'tracker={name} needs the package {name}, which cannot be imported ({error}): '
                      f'`pip install {name}`.') from error
