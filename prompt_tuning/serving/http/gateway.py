"""What every request passes through: its id, the key, the limit of its body, the access log."""

import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec

from prompt_tuning.names import printable
from prompt_tuning.serving.http.errors import ApiError
from prompt_tuning.serving.http.service import Service

LOG = logging.getLogger('prompt_tuning.serving.access')
_OPEN = ('/', '/health', '/ready', '/metrics')  # without a key: probes, Prometheus, and a page that asks for the key
_SHOWN = 2000  # characters of texts in the log


class Gateway:
  """An ASGI application around the one that has the routes.

  Args:
    app: the application.
    service: what is served.
  """

  def __init__(self, app: Any, service: Service):
    self._app, self._service = app, service

  async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Answers a request."""
    if scope['type'] != 'http':
      await self._app(scope, receive, send)
      return
    headers = {name.lower(): value for name, value in scope['headers']}
    number, begun, status = _number(headers.get(b'x-request-id', b'')), time.perf_counter(), [0]
    scope['record'] = {}

    async def reply(message: Any) -> None:
      if message['type'] == 'http.response.start':
        status[0] = message['status']
        message = {**message, 'headers': [*message['headers'], (b'x-request-id', number.encode())]}
      await send(message)

    try:
      refused = self._refused(scope, headers)
      if refused is not None:
        await refused.response()(scope, receive, reply)
      else:
        await self._app(scope, self._limited(receive), reply)
    except Exception:
      if not status[0]:
        raise  # the server answers 500
      LOG.exception('%s failed while its response was sent', number)
    finally:
      route = getattr(scope.get('route'), 'path', 'other')
      self._service.metrics.answered(_method(scope), route, status[0])
      if route not in _OPEN:
        _log(scope, number, status[0], time.perf_counter() - begun)

  def _refused(self, scope: Any, headers: dict[bytes, bytes]) -> ApiError | None:
    """Returns the error of a request that must reach no route, or None."""
    key = self._service.api_key
    if key is not None and scope['path'] not in _OPEN:
      scheme, _, given = headers.get(b'authorization', b'').partition(b' ')
      if scheme.lower() != b'bearer' or not secrets.compare_digest(given.strip(), key.encode()):
        return ApiError(401, 'The API key is wrong or missing. Send the header Authorization: Bearer KEY.',
                        code='invalid_api_key', headers={'WWW-Authenticate': 'Bearer'})
    length = headers.get(b'content-length', b'')
    if length.isdigit() and int(length) > self._service.limits.body:
      return self._too_large()
    return None

  def _limited(self, receive: Callable[[], Any]) -> Callable[[], Any]:
    """Returns `receive`, which raises ApiError when the body is larger than it may be."""
    count = [0]

    async def limited() -> Any:
      message = await receive()
      count[0] += len(message.get('body', b''))
      if count[0] > self._service.limits.body:
        raise self._too_large()
      return message

    return limited

  def _too_large(self) -> ApiError:
    return ApiError(413, f'The body is larger than {self._service.limits.body:,} bytes, the limit of this server. Send '
                    'smaller requests.', headers={'Connection': 'close'})


def _number(given: bytes) -> str:
  """Returns the request's id: the client's own if it can be written into a header and a log."""
  text = given.decode('latin-1')
  return text if 0 < len(text) <= 128 and text.isascii() and text.isprintable() else secrets.token_hex(16)


def _method(scope: Any) -> str:
  return scope['method'] if scope['method'] in ('GET', 'HEAD', 'POST', 'OPTIONS') else 'other'


def _log(scope: Any, number: str, status: int, seconds: float) -> None:
  client = scope.get('client') or ('-', 0)
  record = dict(scope['record'])
  texts = {name: record.pop(name) for name in ('inputs', 'texts') if name in record}
  fields = ''.join(f' {name}={value}' for name, value in record.items())
  shown = ''.join(f' {name}={msgspec.json.encode(value).decode()[:_SHOWN]}' for name, value in texts.items())
  LOG.info('%s', printable(f'{number} {client[0]} {scope["method"]} {scope["path"][:200]} {status or "no response"} '
                           f'{seconds * 1000:.0f} ms{fields}{shown}'))
