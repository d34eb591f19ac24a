"""The server's process: it listens while the model is loaded, ends cleanly on SIGTERM, and with an error if the
engine fails."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import uvicorn

from prompt_tuning.serving.http import app, gateway
from prompt_tuning.serving.http.service import Service

_LEFT = 30  # seconds for the responses of answers that have ended


class Server(uvicorn.Server):
  """Serves a service on a socket.

  Args:
    service: what is served.
  """

  def __init__(self, service: Service):
    super().__init__(uvicorn.Config(
      app.application(service), log_config=None, access_log=False, lifespan='off', server_header=False, ws='none',
      timeout_keep_alive=75, timeout_graceful_shutdown=_LEFT, backlog=2048))
    self._service, self._engine, self._signals, self.status = service, None, 0, 0
    self._failure: BaseException | None = None

  def run_with(self, listening: socket.socket, start: Callable[[], Any]) -> int:
    """Listens, starts the engine in a thread, and serves until a signal or a failure; returns the exit status.

    Args:
      listening: a bound socket.
      start: loads the model, starts the engine, hands it to the service, and returns it.

    Raises:
      BaseException: what `start` raised.
    """
    _log_to_standard_error()

    def begin() -> None:
      try:
        self._engine = start()
      except BaseException as error:
        self._failure, self.should_exit = error, True
        return
      self._engine.wait_failed.wait()
      self.status, self.should_exit = 1, True

    threading.Thread(target=begin, name='start', daemon=True).start()
    asyncio.run(self.serve(sockets=[listening]))
    if self._failure is not None:
      raise self._failure
    return self.status

  def handle_exit(self, sig: int, frame: Any) -> None:
    """Finishes the accepted requests, and refuses new ones; a second signal ends the server at once."""
    self._signals += 1
    self._service.draining = True
    if self._signals > 1:
      self.status, self.should_exit, self.force_exit = 128 + sig, True, True
    elif self._engine is None:
      self.should_exit = True
    else:
      threading.Thread(target=self._drain, name='drain', daemon=True).start()
      with contextlib.suppress(OSError, ValueError):
        name = signal.Signals(sig).name
        print(f'{name}: accepted requests are finished, new ones refused. A second one ends the server at once.',
              file=sys.stderr, flush=True)

  def _drain(self) -> None:
    self._engine.drain()
    self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
  """Returns a bound socket.

  Raises:
    OSError: the address is in use, or is not one of this machine.
  """
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  try:
    return socket.create_server((host, port), family=family, backlog=2048)
  except (OSError, OverflowError) as error:
    reason = getattr(error, 'strerror', None) or str(error)
    raise OSError(f'host={host} port={port} cannot be listened on: {reason}. Choose another port, or another address '
                  'of this machine.') from error


def address(listening: socket.socket) -> str:
  """Returns where a socket is reached, such as http://127.0.0.1:8000."""
  host, port = listening.getsockname()[:2]
  return f'http://{f"[{host}]" if ":" in host else host}:{port}'


def _log_to_standard_error() -> None:
  for logger, level in ((gateway.LOG, logging.INFO), (logging.getLogger('uvicorn.error'), logging.WARNING)):
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter('%(asctime)s %(message)s'))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
