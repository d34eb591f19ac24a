"""Records steps of a run with JAX's profiler, for TensorBoard's profile page or Perfetto."""

import os
from collections.abc import Callable
from typing import Any

import jax

PROFILE_AFTER = 10  # steps to skip, because the first ones compile


class Profiler:
  """A context that records steps.

  Args:
    folder: the run's folder; the recording goes to its subfolder `profile`.
    first: the step after which the recording starts.
    steps: the number of steps to record; None records none.
    say: prints a line.
  """

  def __init__(self, folder: str, *, first: int, steps: int | None, say: Callable[[str], None]):
    self._path, self._first, self._steps, self._say = os.path.join(folder, 'profile'), first, steps, say
    self._recording = self._recorded = False

  def after(self, step: int, state: Any) -> None:
    """Starts or ends the recording if it is due after this step, and waits for the step's results."""
    if self._steps is None or step not in (self._first, self._first + self._steps):
      return
    jax.block_until_ready(state)
    if step == self._first:
      jax.profiler.start_trace(self._path)
      self._recording = True
    else:
      self._stop(f'Recorded {self._steps} steps')

  def _stop(self, said: str) -> None:
    jax.profiler.stop_trace()
    self._recording, self._recorded = False, True
    self._say(f'{said}: {self._path} (tensorboard --logdir shows it)')

  def __enter__(self) -> 'Profiler':
    return self

  def __exit__(self, *_: object) -> None:
    if self._recording:
      self._stop(f'Recorded the steps until the run ended, fewer than {self._steps}')
    elif self._steps is not None and not self._recorded:
      self._say(f'profile={self._steps} recorded nothing: the run ended before step {self._first}.')
