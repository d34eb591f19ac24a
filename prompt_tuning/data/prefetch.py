"""Makes batches in a thread while the model runs on the one before."""

import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Protocol

from prompt_tuning.types import Batch

_PATIENCE = 0.1  # seconds between looks at whether the thread shall end


class Batches(Protocol):
  """Batches whose place can be saved: what `pipeline.TrainBatches` is."""

  truncated: Mapping[str, int]

  def __next__(self) -> Batch:
    """Returns the next batch."""

  def state(self) -> dict[str, int]:
    """Returns the place after the last batch handed out."""

  def restore(self, state: Mapping[str, int]) -> None:
    """Goes to a place that `state` returned."""


class Prefetched:
  """The same batches, made ahead of their use. The state is still that of the batch handed out last.

  Args:
    batches: used by the thread from now on, and by nobody else.
    depth: how many batches may wait.
  """

  def __init__(self, batches: Batches, *, depth: int = 2):
    self._batches, self._depth = batches, depth
    self._state = batches.state()
    self._thread: threading.Thread | None = None

  @property
  def truncated(self) -> Mapping[str, int]:
    """The counts of the batches made so far, those that wait included."""
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
    """Returns the place after the last batch handed out."""
    return dict(self._state)

  def restore(self, state: Mapping[str, int]) -> None:
    """Goes to a place that `state` returned; batches that wait are dropped."""
    self.close()
    self._batches.restore(state)
    self._state = self._batches.state()

  def close(self) -> None:
    """Ends the thread, if it runs, and goes back to the last batch handed out."""
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
      except Exception as caught:  # raised again where the batch is asked for
        error = caught
      self._hand_over((batch, state, error))

  def _hand_over(self, item: tuple) -> None:
    while not self._ending.is_set():
      try:
        return self._waiting.put(item, timeout=_PATIENCE)
      except queue.Full:
        continue
