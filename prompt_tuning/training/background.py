"""Writes files while the next steps run."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

from prompt_tuning.devices import multihost

_MOST = 2  # what waits holds a copy of what is trained


class Background:
  """Runs functions one after the other in a thread; the block that it is used in ends when all have.

  Behind one that has failed no other is run: a state must not be there without what was written before it. On hosts
  other than the main one nothing is run.
  """

  def __init__(self) -> None:
    self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='saving')
    self._waiting: list[concurrent.futures.Future] = []
    self._failed = False

  def run(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Runs a function soon, behind those before it. Raises what one of these has raised."""
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
    """Returns when all have run. Raises what one has raised."""
    while self._waiting:
      self._waiting.pop(0).result()

  def __enter__(self) -> 'Background':
    return self

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    self._thread.shutdown(wait=True)
    if error is None:
      self.wait()
