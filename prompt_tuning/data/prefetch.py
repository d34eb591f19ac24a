"""Prepares batches in a thread while the model runs on the previous one."""

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Protocol

from prompt_tuning.types import Batch

_PATIENCE = 0.1  # seconds between checks whether the thread must stop


class Batches(Protocol):
  """Batches with a position that can be saved, such as `pipeline.TrainBatches`."""

  truncated: Mapping[str, int]

  def __next__(self) -> Batch:
    """Returns the next batch."""

  def state(self) -> dict[str, int]:
    """Returns the position after the last returned batch."""

  def restore(self, state: Mapping[str, int]) -> None:
    """Moves to a position that `state` returned."""


class Prefetched:
  """The same batches, prepared ahead of use. The state is still that of the last returned batch.

  Args:
    batches: from now on used only by the thread.
    depth: the maximum number of waiting batches.
  """

  def __init__(self, batches: Batches, *, depth: int = 2):
    self._batches, self._depth = batches, depth
    self._state = batches.state()
    self._thread: threading.Thread | None = None

  @property
  def truncated(self) -> Mapping[str, int]:
    """The counts for the batches made so far, including those that wait."""
    return self._batches.truncated

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    if self._thread is None:
      self._start()
    batch, state, error = self._waiting.get()
    if error is not None:
      self.close()
      raise error
    self._state = state
    return batch

  def state(self) -> dict[str, int]:
    """Returns the position after the last returned batch."""
    return dict(self._state)

  def restore(self, state: Mapping[str, int]) -> None:
    """Moves to a position that `state` returned; waiting batches are dropped."""
    self.close()
    self._batches.restore(state)
    self._state = self._batches.state()

  def close(self) -> None:
    """Stops the thread if it runs, and moves back to the last returned batch."""
    if self._thread is None:
      return
    self._ending.set()
    self._thread.join()
    self._thread = None
    self._batches.restore(self._state)

  def _start(self) -> None:
    self._waiting: queue.Queue = queue.Queue(self._depth)
    self._ending = threading.Event()
    self._thread = threading.Thread(target=self._run, name='prefetch', daemon=True)
    self._thread.start()

  def _run(self) -> None:
    error = None
    while error is None and not self._ending.is_set():
      batch = state = None
      try:
        batch = next(self._batches)
        state = self._batches.state()
      except BaseException as caught:  # raised again by `__next__`
        error = caught
        if isinstance(caught, StopIteration) or not isinstance(caught, Exception):  # it would end the program silently
          error = ValueError(f'The training data cannot be read: a reader ended with {caught!r}. Fix the task, whose '
                             'examples must not end the program.')
          error.__cause__ = caught
      self._hand_over((batch, state, error))

  def _hand_over(self, item: tuple) -> None:
    while not self._ending.is_set():
      try:
        return self._waiting.put(item, timeout=_PATIENCE)
      except queue.Full:
        continue
