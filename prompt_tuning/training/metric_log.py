"""The logs of a run during training: `metrics.jsonl`, TensorBoard folders and the terminal.

`metrics.jsonl` is the reference: one object per line, with its step; null stands for NaN and infinities. A resumed run
first drops the lines of the steps that it will repeat, and half a line at the end; other damaged lines are reported and
kept. In addition, there are the files that users of T5X know: `inference_eval/{task}-metrics.jsonl`, and TensorBoard
folders, with tags `eval/{metric}` for a task's metrics and plain names for everything else.

In an object store, the files are uploaded whole: after each evaluation and each saved state, at the end, and otherwise
every half a minute.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from prompt_tuning.devices import compilation, memory
from prompt_tuning.evaluation import metric_lines
from prompt_tuning.evaluation.saved import METRICS
from prompt_tuning.files import json_files, local, progress, storage
from prompt_tuning.training.trackers import Guarded, Tracker

_JUDGED = 'inference_eval'
_STEP = 'step'  # what progress counts
_PUT_PERIOD = 30.0  # seconds between uploads while training figures are logged


class MetricLog:
  """Writes the figures of one run.

  Args:
    folder: the run's folder.
    start_step: the step at which the run starts or resumes; lines of later steps are dropped.
    total_steps: the last step, for the remaining time.
    quiet: print nothing.
    tracker: takes the figures too, see `trackers`.
    settings: the run's, for the tracker.
  """

  def __init__(self, folder: str, *, start_step: int, total_steps: int, quiet: bool = False,
               tracker: Tracker | None = None, settings: Mapping[str, Any] | None = None):
    self._folder = folder
    self._writers: dict[str, Any] = {}
    self._missed = 0  # figures that TensorBoard's files lack
    judged = storage.join(folder, _JUDGED)
    for path in (storage.join(folder, METRICS), *(
        storage.join(judged, name) for name in storage.list_folder(judged) if name.endswith(f'-{METRICS}'))):
      _drop_later(path, start_step)
    self._grown = storage.GrowingFolder(folder)
    self._put = time.monotonic()
    self._file = self._grown.open(METRICS)
    self._total = total_steps
    self._display = progress.display(quiet=quiet)
    self._display.show(_STEP, start_step, total_steps)
    self._tracker = None if tracker is None else Guarded(tracker, folder, settings or {}, self.say)

  def write(self, step: int, values: Mapping[str, float], *, folder: str = 'train') -> None:
    """Writes the figures of a step to a TensorBoard folder, such as `train` or `inference_eval/sst2`."""
    path = os.path.join(self._grown.path, METRICS)
    with local.explained(path):
      if os.fstat(self._file.fileno()).st_nlink == 0:
        self.say(f'{path} was removed while the run writes it: the figures before step {step} are lost.')
        self._file.close()
        self._file = self._grown.open(METRICS)
      self._file.write(json_files.spelled({'step': step, 'folder': folder, **values}) + '\n')
      self._file.flush()
    self._write_tensorboard(folder, step, values)
    if self._tracker is not None:
      self._tracker.log(step, {f'{folder}/{name}': value for name, value in values.items()})
    if folder.startswith(f'{_JUDGED}/'):
      append_metrics(self._folder, folder.removeprefix(f'{_JUDGED}/'), step, values)
    if folder != 'train' or time.monotonic() - self._put > _PUT_PERIOD:
      self._grown.put()
      self._put = time.monotonic()

  def _write_tensorboard(self, folder: str, step: int, values: Mapping[str, float]) -> None:
    """Writes for TensorBoard; what fails there ends no run, since `metrics.jsonl` has the same figures."""
    try:
      if folder not in self._writers:
        self._writers[folder] = open_tensorboard(os.path.join(self._grown.path, folder))
      add_scalars(self._writers[folder], step, values, judged=folder.startswith(f'{_JUDGED}/'))
    except OSError as error:
      if not self._missed:
        self.say(f'{storage.join(self._folder, folder)}: a file for TensorBoard cannot be written '
                 f'({error.strerror or error}). {METRICS} has all figures.')
      self._missed += 1
      _close(self._writers.pop(folder, None))  # the next figures begin another file: this one ends in half a record

  def show(self, step: int, values: Mapping[str, float]) -> None:
    """Updates the progress line."""
    right = f'token accuracy {100 * values["token_accuracy"]:.1f} %  ' if 'token_accuracy' in values else ''
    figures = (f'loss {values["loss"]:.4f}  {right}{values["steps_per_second"]:.3g} steps/s  '
               f'{values["examples_per_second"]:.3g} examples/s  {memory.words(values)}')
    left = (self._total - step) / max(values['steps_per_second'], 1e-9)
    self._display.show(_STEP, step, self._total, figures=figures.rstrip(), left=left)

  def say(self, text: str) -> None:
    """Prints a separate line."""
    self._display.say(text)

  def phase(self, text: str) -> contextlib.AbstractContextManager[None]:
    """Prints the start of a phase, how far it is, and how many seconds it took at its end."""
    return phase(text, self._display)

  def close(self) -> None:
    """Ends the progress line and closes all files."""
    if self._missed:
      self.say(f"TensorBoard's files lack the figures of {self._missed} lines of {METRICS}.")
    if self._tracker is not None:
      self._tracker.end()
    self._display.close()
    for file in (self._file, *self._writers.values()):
      _close(file)
    self._grown.close()

  def __enter__(self) -> 'MetricLog':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


class Silence:
  """Replaces `MetricLog` on hosts other than the main one."""

  def write(self, *figures: Any, **options: Any) -> None:
    """Does nothing."""

  show = say = write

  def phase(self, text: str) -> contextlib.AbstractContextManager[None]:
    """Does nothing."""
    return contextlib.nullcontext()

  def __enter__(self) -> 'Silence':
    return self

  def __exit__(self, *error: object) -> None:
    pass


@contextlib.contextmanager
def phase(text: str, display: progress.Display) -> Iterator[None]:
  """Announces a phase at its start, shows how many examples are done, and prints its seconds at its end."""
  display.say(f'{text} …')
  began = time.monotonic()
  with progress.examples_on(display, text):
    yield
  display.say(f'{text}: {time.monotonic() - began:.1f} s')


@contextlib.contextmanager
def phase_that_compiles(text: str, display: progress.Display) -> Iterator[None]:
  """Does the same for a phase that compiles when it needs to, and says how many of its seconds that took."""
  display.say(f'{text}, after compiling …')
  began, before = time.monotonic(), compilation.seconds()
  with progress.examples_on(display, text):
    yield
  display.say(f'{text}: {time.monotonic() - began:.1f} s, {compilation.seconds() - before:.1f} s of it compiling')


def append_metrics(folder: str, task: str, step: int, values: Mapping[str, float]) -> None:
  """Adds a line to `folder/inference_eval/{task}-metrics.jsonl`."""
  path = storage.join(folder, _JUDGED, f'{task}-{METRICS}')
  before = storage.read_bytes(path) if storage.exists(path) else b''
  border = b'' if before.endswith(b'\n') or not before else b'\n'  # after half a line
  storage.write_bytes(path, before + border + json_files.spelled({'step': step, **values}).encode() + b'\n')


def open_tensorboard(folder: str) -> Any:
  """Returns a new file of figures for TensorBoard in a local folder.

  Raises:
    OSError: it cannot be written.
  """
  # tensorboardX is slow to import where torch is installed, and its SummaryWriter writes in a thread that hangs the
  # program once a write has failed.
  from tensorboardX.event_file_writer import EventsWriter

  os.makedirs(folder, exist_ok=True)
  own = f'.{os.getpid()}.{secrets.token_hex(4)}'  # of two files of one second, the second must not replace the first
  return EventsWriter(os.path.join(folder, 'events'), filename_suffix=own)


def add_scalars(file: Any, step: int, values: Mapping[str, float], *, judged: bool) -> None:
  """Writes figures for TensorBoard; `judged` is True for a task's metrics.

  Raises:
    OSError: the file cannot be written.
  """
  from tensorboardX.proto.event_pb2 import Event
  from tensorboardX.summary import scalar

  for name, value in values.items():
    tag = f'eval/{name}' if judged else name
    file.write_event(Event(wall_time=time.time(), step=step, summary=scalar(tag, value)))
  file.flush()


def _close(file: Any) -> None:
  with contextlib.suppress(AttributeError, OSError):  # there is none; or its disk is full, which was said before
    file.close()


def _drop_later(path: str, step: int) -> None:
  if not storage.exists(path):
    return
  content = storage.read_bytes(path)
  lines = metric_lines.parse(content)
  damaged = [line for line in lines if line.figures is None]
  if damaged:
    logging.warning('%s: %d of %d lines are damaged and kept as they are, first line %d: %r', path, len(damaged),
                    len(lines), damaged[0].number, damaged[0].content[:60])
  kept = b''.join(line.content for line in lines if line.figures is None or line.figures['step'] <= step)
  if kept != content:
    storage.write_bytes(path, kept)
