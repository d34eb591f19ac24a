"""Writes files while the next steps run."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

from prompt_tuning.devices import multihost

_MOST = 2  # each waiting save holds a copy of the trained tensors


class Background:
  """Runs functions one after the other in a thread; on exit, the context waits for all of them.

  After one has failed, no other is run: a state must not exist without the files written before it. Only the main host
  runs them.
  """

  def __init__(self) -> None:
    self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='saving')
    self._waiting: list[concurrent.futures.Future] = []
    self._failed = False

  def run(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Schedules a function to run after the earlier ones. Raises the error of an earlier one that failed."""
    while self._waiting and (self._waiting[0].done() or len(self._waiting) > _MOST):
      self._waiting.pop(0).result()
    if multihost.is_main():
      self._waiting.append(self._thread.submit(self._run, function, arguments, options))

  def _run(self, function: Callable[..., Any], arguments: Any, options: Any) -> None:
    if self._failed:
      return
    try:
      function(*arguments, **options)
    except BaseException:
      self._failed = True
      raise

  def wait(self) -> None:
    """Waits for all functions. Raises the error of one that failed."""
    while self._waiting:
      self._waiting.pop(0).result()

  def __enter__(self) -> 'Background':
    return self

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    self._thread.shutdown(wait=True)
    if error is None:
      self.wait()
