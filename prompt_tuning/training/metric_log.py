"""The logs of a run during training: `metrics.jsonl`, TensorBoard folders and the terminal.

`metrics.jsonl` is the reference: one object per line, with its step. A resumed run first drops the lines of the steps
that it will repeat. In addition, there are the files that users of T5X know: `inference_eval/{task}-metrics.jsonl`, and
TensorBoard folders, with tags `eval/{metric}` for a task's metrics and plain names for everything else.

In an object store, the files are uploaded whole: after each evaluation and each saved state, at the end, and otherwise
every half a minute.
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
_PUT_PERIOD = 30.0  # seconds between uploads while training figures are logged


class MetricLog:
  """Writes the figures of one run.

  Args:
    folder: the run's folder.
    start_step: the step at which the run starts or resumes; lines of later steps are dropped.
    total_steps: the last step, for the remaining time.
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
    """Writes the figures of a step to a TensorBoard folder, such as `train` or `inference_eval/sst2`."""
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
    """Updates the progress line."""
    self._progress.show(step, values)

  def say(self, text: str) -> None:
    """Prints a separate line."""
    self._progress.say(text)

  def phase(self, text: str) -> contextlib.AbstractContextManager[None]:
    """Prints the start of a phase, and how many seconds it took at its end."""
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
def phase(text: str, say: Callable[[str], None]) -> Iterator[None]:
  """Announces a phase at its start, and prints how many seconds it took at its end."""
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
  """Returns a writer of TensorBoard files in a local folder."""
  import tensorboardX  # slow where torch is installed: only when there is something to write

  return tensorboardX.SummaryWriter(folder)


def add_scalars(writer: Any, step: int, values: Mapping[str, float], *, judged: bool) -> None:
  """Writes figures for TensorBoard; `judged` is True for a task's metrics."""
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
      continue  # the last line of a run that was killed while writing
  if kept != lines:
    storage.write_bytes(path, b''.join(kept))


class _Progress:
  """A moving progress line in a terminal; else plain lines a few seconds apart."""

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
    right = f'token accuracy {100 * values["token_accuracy"]:.1f} %  ' if 'token_accuracy' in values else ''
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
