"""The queue of an engine: first come, first served for each prompt, and the prompts take turns."""

import collections
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar('T')


class Waiting(Generic[T]):
  """See the top of this file. Its methods may be called from any thread.

  Attributes:
    most: how many may wait.
  """

  def __init__(self, most: int):
    self.most = most
    self._queues: collections.OrderedDict[Hashable, collections.deque[T]] = collections.OrderedDict()
    self._changed = threading.Condition()

  def put(self, key: Hashable, item: T, free: int = 0) -> bool:
    """Adds an item to a key's queue; returns False if the queue is full, without those that `free` slots take."""
    with self._changed:
      if len(self) >= self.most + free:
        return False
      self._queues.setdefault(key, collections.deque()).append(item)
      self._changed.notify()
    return True

  def take(self, fits: Callable[[T], bool]) -> T | None:
    """Removes and returns the next item if it fits; None if nothing waits or it does not fit: no other overtakes it."""
    with self._changed:
      if not self._queues:
        return None
      key, items = next(iter(self._queues.items()))
      if not fits(items[0]):
        return None
      item = items.popleft()
      self._queues.move_to_end(key)
      if not items:
        del self._queues[key]
      return item

  def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
    """Removes and returns the items that are no longer wanted."""
    with self._changed:
      found = [item for item in self if unwanted(item)]
      for key in list(self._queues):
        kept = collections.deque(item for item in self._queues[key] if item not in found)
        if kept:
          self._queues[key] = kept
        else:
          del self._queues[key]
    return found

  def wait(self, seconds: float) -> None:
    """Returns when something waits or `wake` was called, at the latest after some seconds."""
    with self._changed:
      if not self._queues:
        self._changed.wait(seconds)

  def wake(self) -> None:
    """Ends a `wait`."""
    with self._changed:
      self._changed.notify_all()

  def __iter__(self) -> Iterator[T]:
    with self._changed:
      return iter([item for items in self._queues.values() for item in items])

  def __len__(self) -> int:
    with self._changed:
      return sum(map(len, self._queues.values()))
