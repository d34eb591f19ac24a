"""Ends a run in an orderly way on SIGTERM and Ctrl-C: after a step, or between the batches of an evaluation."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from prompt_tuning.devices.multihost import is_single_process

_NAMES = {signal.SIGTERM: 'SIGTERM', signal.SIGINT: 'Ctrl-C'}
_NOTICE = b'\nCtrl-C: saving the state and ending. Press it again to end at once, with what was saved before.\n'


class Preempted(SystemExit):
  """Raised when a run has saved its state because of SIGTERM; the exit status is 0."""


class Interrupted(Exception):
  """Raised between the batches of an evaluation that a signal interrupts."""


class Preemption:
  """Detects SIGTERM on any host, so that all hosts stop at the same point; of a single process, also Ctrl-C.

  Args:
    quiet: print nothing on Ctrl-C.
  """

  def __init__(self, *, quiet: bool = False):
    self._quiet, self._signal, self._reached, self._asked = quiet, None, False, 0

  @contextlib.contextmanager
  def watched(self) -> Iterator['Preemption']:
    """Records the signals while the block runs; a second one of the same kind ends the process at once."""
    if not is_single_process() or threading.current_thread() is not threading.main_thread():
      yield self  # with several processes, JAX handles SIGTERM
      return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in _NAMES}
    for number, handler in before.items():
      if handler is not signal.SIG_IGN:
        signal.signal(number, lambda number, frame: self._tell(number, before[number]))
    try:
      yield self
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)

  def _tell(self, number: int, before: Any) -> None:
    self._signal = self._signal or number
    at_once = number == signal.SIGINT and before is signal.default_int_handler and not hasattr(sys, 'ps1')
    # Python's own handler would wait for what the process does outside of Python, but does not end a session.
    signal.signal(number, signal.SIG_DFL if at_once else before)
    if number == signal.SIGINT and not self._quiet:
      with contextlib.suppress(OSError):
        os.write(2, _NOTICE)  # `print` must not be called while it may be printing

  def told(self) -> bool:
    """Returns True if all processes must stop now; every process calls it equally often."""
    if is_single_process():
      return self._signal is not None
    if not self._reached:
      from jax.experimental.multihost_utils import reached_preemption_sync_point

      self._asked += 1
      self._reached = reached_preemption_sync_point(self._asked)
    return self._reached

  def heed(self) -> None:
    """Raises Interrupted if all processes must stop now."""
    if self.told():
      raise Interrupted

  def ending(self, said: str) -> BaseException:
    """Returns the exception that ends the run, whose state is saved: SystemExit with status 0, or KeyboardInterrupt.

    Args:
      said: what was told to the user.
    """
    return KeyboardInterrupt(said) if self._signal == signal.SIGINT else Preempted(0)

  @property
  def name(self) -> str:
    """The signal, for messages."""
    return _NAMES[self._signal or signal.SIGTERM]
