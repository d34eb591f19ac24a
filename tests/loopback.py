"""A server on loopback over the files of a folder, in a thread of its own: what stand-ins of remote services share."""

import http.server
import pathlib
import threading


class Server(http.server.ThreadingHTTPServer):
  """Serves `folder`.

  Attributes:
    folder: what is stored.
    asked: 'METHOD path' of every request, in order.
  """

  def __init__(self, folder: pathlib.Path, handler: type[http.server.BaseHTTPRequestHandler]):
    super().__init__(('127.0.0.1', 0), handler)
    self.folder, self.asked = folder, []
    self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
    self.thread.start()

  @property
  def address(self) -> str:
    return f'http://127.0.0.1:{self.server_port}'

  def close(self) -> None:
    self.shutdown()
    self.thread.join()
    self.server_close()
