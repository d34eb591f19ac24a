"""Where figures go while a run trains: `metrics.jsonl`, TensorBoard folders and the terminal.

`metrics.jsonl` is the truth: one object a line, with its step. A resumed run first drops the lines of steps that it
will run again. Beside it stand the files that users of T5X know: `inference_eval/{task}-metrics.jsonl`, and TensorBoard
folders whose tags are `eval/{metric}` for what a task's metrics say, and the plain names for all else.

In an object store the files are put whole: when an evaluation is logged or a state saved, at the end, and else every
half a minute.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prompt_tuning.evaluation.saved import METRICS
from prompt_tuning.files import storage

_JUDGED = 'inference_eval'
_PUT_PERIOD = 30.0  # seconds from one put to the next where figures of training come in


class MetricLog:
  """Writes figures of one run.

  Args:
    folder: the run's folder.
    start_step: where the run (re)starts; lines of later steps are dropped.
    total_steps: where it ends, for the time that is left.
    quiet: print nothing.
  """

  def __init__(self, folder: str, *, start_step: int, total_steps: int, quiet: bool = False):
    self._folder = folder
    self._writers: dict[str, Any] = {}
    judged = storage.join(folder, _JUDGED)
    for path in (storage.join(folder, METRICS), *(
        storage.join(judged, name) for name in storage.list_folder(judged) if name.endswith(f'-{METRICS}'))):
      _drop_later(path, start_step)
    self._grown = storage.GrowingFolder(folder)
    self._put = time.monotonic()
    self._file = self._grown.open(METRICS)
    self._progress = _Progress(start_step, total_steps, quiet)

  def write(self, step: int, values: Mapping[str, float], *, folder: str = 'train') -> None:
    """Writes figures of a step under a TensorBoard folder, such as `train` or `inference_eval/sst2`."""
    self._file.write(json.dumps({'step': step, 'folder': folder, **values}) + '\n')
    self._file.flush()
    if folder not in self._writers:
      self._writers[folder] = open_tensorboard(os.path.join(self._grown.path, folder))
    add_scalars(self._writers[folder], step, values, judged=folder.startswith(f'{_JUDGED}/'))
    if folder.startswith(f'{_JUDGED}/'):
      append_metrics(self._folder, folder.removeprefix(f'{_JUDGED}/'), step, values)
    if folder != 'train' or time.monotonic() - self._put > _PUT_PERIOD:
      self._grown.put()
      self._put = time.monotonic()

  def show(self, step: int, values: Mapping[str, float]) -> None:
    """Moves the progress line on."""
    self._progress.show(step, values)

  def say(self, text: str) -> None:
    """Prints a line of its own."""
    self._progress.say(text)

  def phase(self, text: str) -> contextlib.AbstractContextManager[None]:
    """Prints that something begins, and the seconds that it took when it ends."""
    return phase(text, self.say)

  def close(self) -> None:
    """Ends the progress line and closes all files."""
    self._progress.close()
    self._file.close()
    for writer in self._writers.values():
      writer.close()
    self._grown.close()

  def __enter__(self) -> 'MetricLog':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


class Silence:
  """What hosts other than the main one have instead of a `MetricLog`."""

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
def phase(text: str, say: Callable[[str], None]) -> Iterator[None]:
  """A context that says what begins, so that nobody waits in silence, and the seconds that it took when it ends."""
  say(f'{text} …')
  began = time.monotonic()
  yield
  say(f'{text}: {time.monotonic() - began:.1f} s')


def append_metrics(folder: str, task: str, step: int, values: Mapping[str, float]) -> None:
  """Adds a line to `folder/inference_eval/{task}-metrics.jsonl`."""
  path = storage.join(folder, _JUDGED, f'{task}-{METRICS}')
  before = storage.read_bytes(path) if storage.exists(path) else b''
  storage.write_bytes(path, before + json.dumps({'step': step, **values}).encode() + b'\n')


def open_tensorboard(folder: str) -> Any:
  """Returns a writer of TensorBoard's files into a local folder."""
  import tensorboardX  # slow where torch is installed: only when there is something to write

  return tensorboardX.SummaryWriter(folder)


def add_scalars(writer: Any, step: int, values: Mapping[str, float], *, judged: bool) -> None:
  """Writes figures for TensorBoard; `judged` says that they are a task's metrics."""
  for name, value in values.items():
    writer.add_scalar(f'eval/{name}' if judged else name, value, step)
  writer.flush()


def _drop_later(path: str, step: int) -> None:
  if not storage.exists(path):
    return
  lines = storage.read_bytes(path).splitlines(keepends=True)
  kept = []
  for line in lines:
    try:
      if json.loads(line)['step'] <= step:
        kept.append(line)
    except (ValueError, KeyError):
      continue  # the last line of a run that was killed while it wrote
  if kept != lines:
    storage.write_bytes(path, b''.join(kept))


class _Progress:
  """One line that moves where there is a terminal, plain lines a few seconds apart where there is none."""

  def __init__(self, start_step: int, total_steps: int, quiet: bool):
    self._quiet, self._start, self._total = quiet, start_step, total_steps
    self._last, self._bar = 0.0, None
    if not quiet and sys.stderr.isatty():
      from rich.console import Console
      from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

      self._bar = Progress(
        TextColumn('step {task.completed}/{task.total}'), BarColumn(), TextColumn('{task.fields[figures]}'),
        TextColumn('ETA'), TimeRemainingColumn(), console=Console(stderr=True), transient=False)
      self._task = self._bar.add_task('train', total=total_steps, completed=start_step, figures='')
      self._bar.start()

  def show(self, step: int, values: Mapping[str, float]) -> None:
    if self._quiet:
      return
    right = f'accuracy {100 * values["accuracy"]:.1f} %  ' if 'accuracy' in values else ''
    text = (f'loss {values["loss"]:.4f}  {right}'
            f'{values["steps_per_second"]:.3g} steps/s  {values["examples_per_second"]:.3g} examples/s')
    if self._bar is not None:
      self._bar.update(self._task, completed=step, figures=text)
    elif time.monotonic() - self._last > 5 or step == self._total:
      self._last = time.monotonic()
      left = (self._total - step) / max(values['steps_per_second'], 1e-9)
      print(f'step {step}/{self._total}  {text}  ETA {left:.0f} s', file=sys.stderr, flush=True)

  def say(self, text: str) -> None:
    if self._quiet:
      return
    if self._bar is not None:
      self._bar.console.print(text, markup=False, highlight=False)
    else:
      print(text, file=sys.stderr, flush=True)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.stop()
