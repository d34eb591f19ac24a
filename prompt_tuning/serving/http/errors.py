"""Errors as clients of OpenAI's API read them: `{"error": {"message", "type", "param", "code"}}`."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from prompt_tuning.names import printable, translated
from prompt_tuning.serving.requests import Draining, EngineFailed, QueueFull, UnknownPrompt

# Settings of the engine -> fields of a request.
_FIELDS = {'topk': 'top_k', 'topp': 'top_p', 'minp': 'min_p', 'number': 'n', 'top': 'logprobs'}
_TYPES = {401: 'authentication_error', 403: 'permission_error', 404: 'not_found_error', 429: 'rate_limit_error',
          500: 'server_error', 503: 'server_error'}


class ApiError(Exception):
  """An error response.

  Args:
    status: of HTTP.
    message: what was found, what was expected, what to do.
    param: the field of the request, if it is one.
    code: a word for programs, such as 'model_not_found'.
    headers: further headers of the response.
  """

  def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None,
               headers: Mapping[str, str] | None = None):
    super().__init__(message)
    self.status, self.message, self.param, self.code = status, printable(message), param, code
    self.headers = dict(headers or {})

  def content(self) -> dict[str, Any]:
    """Returns the object that a client reads."""
    return {'error': {'message': self.message, 'type': _TYPES.get(self.status, 'invalid_request_error'),
                      'param': self.param, 'code': self.code}}

  def response(self) -> Response:
    """Returns the response."""
    return Json(self.content(), self.status, self.headers)


class Json(Response):
  """A response of plain values."""

  media_type = 'application/json'

  def render(self, content: Any) -> bytes:
    """Returns the body."""
    return msgspec.json.encode(content)


@contextlib.contextmanager
def answered() -> Iterator[None]:
  """A context that turns errors of the engine into those of the API.

  Raises:
    ApiError: with the error's HTTP status.
  """
  try:
    yield
  except UnknownPrompt as error:
    raise ApiError(404, str(error), param='model', code='model_not_found') from error
  except QueueFull as error:
    raise ApiError(429, str(error), code='queue_full',
                   headers={'Retry-After': str(max(1, math.ceil(error.retry_after)))}) from error
  except Draining as error:
    raise draining() from error
  except EngineFailed as error:
    raise failed() from error
  except ValueError as error:
    raise ApiError(400, translated(str(error), _FIELDS)) from error


def draining() -> ApiError:
  """Returns the error of a server that takes no new requests."""
  return ApiError(503, 'The server is shutting down and takes no new requests. Send the request again, to another '
                  'replica if there are several.', code='draining', headers={'Retry-After': '1', 'Connection': 'close'})


def late(seconds: float | None) -> ApiError:
  """Returns the error of a request that took too long."""
  return ApiError(504, f'The request took longer than this server allows, {seconds} s. Ask for fewer tokens, or try '
                  'again when it is less busy.', code='timeout')


def failed() -> ApiError:
  """Returns the error of a request whose engine has failed."""
  return ApiError(500, "The engine failed; the server's log has the reason. Send the request again; the server exits "
                  'if this happens repeatedly.', code='engine_failed')
