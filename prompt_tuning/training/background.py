"""Writes files while the next steps run."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

from prompt_tuning import multihost


class Background:
  """Runs functions one after the other in a thread; the block that it is used in ends when all have.

  On hosts other than the main one nothing is run.
  """

  def __init__(self) -> None:
    self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='saving')
    self._waiting: list[concurrent.futures.Future] = []

  def run(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Runs a function soon, behind those before it. Raises what one of these has raised."""
    for each in self._waiting:
      if each.done():
        each.result()
    if multihost.is_main():
      self._waiting.append(self._thread.submit(function, *arguments, **options))

  def wait(self) -> None:
    """Returns when all have run. Raises what one has raised."""
    for each in self._waiting:
      each.result()
    self._waiting = []

  def __enter__(self) -> 'Background':
    return self

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    self._thread.shutdown(wait=True)
    if error is None:
      self.wait()
