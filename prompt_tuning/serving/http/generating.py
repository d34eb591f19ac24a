"""What completions and chats have in common: how answers become one response, or a stream of events."""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from prompt_tuning.serving.http.answering import Answering, whole
from prompt_tuning.serving.http.errors import ApiError, Json
from prompt_tuning.serving.http.fields import Generation
from prompt_tuning.serving.http.service import Service
from prompt_tuning.serving.requests import Answer, Piece, Request

REASONS = {'end': 'stop', 'stop': 'stop', 'length': 'length'}


class Form(Protocol):
  """The form of a route's response.

  Attributes:
    kind: the response's `object`.
    chunk_kind: that of a stream's events.
  """

  kind: str
  chunk_kind: str

  def choice(self, index: int, answer: Answer, piece: Piece) -> dict[str, Any]:
    """Returns the choice of a whole answer."""

  def opening(self, index: int, answer: Answer) -> dict[str, Any] | None:
    """Returns what a stream has before the answer's first piece."""

  def change(self, index: int, answer: Answer, piece: Piece) -> dict[str, Any]:
    """Returns the choice of a stream's event."""


async def answer(request: HttpRequest, asked: Callable[[Service, bytes], tuple[Generation, Sequence[Request], Form]],
                 inputs: str) -> Response:
  """Answers a request of a route.

  Args:
    request: the request.
    asked: returns a body's fields, what the engine is asked, and the form of the answers.
    inputs: the field that holds the inputs, for the log.

  Raises:
    ApiError: the body cannot be used, or the engine does not take the requests or has failed.
  """
  service: Service = request.app.state.service
  service.engine  # noqa: B018 - it takes requests
  body = await request.body()
  fields, requests, form = await run_in_threadpool(asked, service, body)
  if service.log_texts:
    request.scope['record']['inputs'] = getattr(fields, inputs)
  return await _respond(request, service, fields, requests, form)


async def _respond(request: HttpRequest, service: Service, fields: Generation, requests: Sequence[Request],
                  form: Form) -> Response:
  """Asks the engine, and returns its answers in the form of a route.

  Raises:
    ApiError: the engine does not take the requests, or has failed.
  """
  label = requests[0].prompt or service.name
  answering = Answering(service.engine, requests, service.metrics, label, pieces=fields.stream)
  service.metrics.asked(label, answering.input_tokens)
  head = {'id': f'{"chatcmpl" if form.kind.startswith("chat") else "cmpl"}-{secrets.token_hex(12)}',
          'object': form.chunk_kind if fields.stream else form.kind, 'created': int(time.time()), 'model': fields.model}
  record = request.scope['record']
  record.update(model=label, answers=len(requests))
  if fields.stream:
    record.update(stream=True)
    return _Events(_events(answering, head, form, fields.include_usage), answering, record)
  pieces = await whole(answering, request.receive)
  _note(record, answering)
  if pieces is None:
    raise ApiError(499, 'The client has disconnected.')
  if service.log_texts:
    record['texts'] = [piece.text for piece in pieces]
  choices = [form.choice(index, answer, piece)
             for index, (answer, piece) in enumerate(zip(answering.answers, pieces, strict=True))]
  return Json({**head, 'choices': choices, 'usage': _usage(answering)})


class _Events(StreamingResponse):
  """A stream of server-sent events, whose answers are cancelled when the client disconnects."""

  def __init__(self, events: AsyncIterator[bytes], answering: Answering, record: dict[str, Any]):
    super().__init__(events, media_type='text/event-stream',
                     headers={'Cache-Control': 'no-cache', 'X-Accel-Buffering': 'no'})
    self._answering, self._record = answering, record

  async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Sends the events."""
    try:
      await super().__call__(scope, receive, send)
    finally:
      self._answering.close()
      _note(self._record, self._answering)


async def _events(answering: Answering, head: dict[str, Any], form: Form, include_usage: bool) -> AsyncIterator[bytes]:
  usage = {'usage': None} if include_usage else {}
  opened: set[int] = set()
  try:
    async for index, piece in answering:
      answer = answering.answers[index]
      if index not in opened:
        opened.add(index)
        opening = form.opening(index, answer)
        if opening is not None:
          yield _event({**head, 'choices': [opening], **usage})
      if piece.text or piece.tokens or piece.ended:
        yield _event({**head, 'choices': [form.change(index, answer, piece)], **usage})
    if include_usage:
      yield _event({**head, 'choices': [], 'usage': _usage(answering)})
  except ApiError as error:  # the status has been sent
    yield _event(error.content())
    return
  yield b'data: [DONE]\n\n'


def _event(content: Any) -> bytes:
  return b'data: ' + msgspec.json.encode(content) + b'\n\n'


def _usage(answering: Answering) -> dict[str, int]:
  given, made = answering.input_tokens, sum(answering.generated)
  return {'prompt_tokens': given, 'completion_tokens': made, 'total_tokens': given + made}


def _note(record: dict[str, Any], answering: Answering) -> None:
  """Adds to the access log's record what was generated."""
  record.update(prompt_tokens=answering.input_tokens, completion_tokens=sum(answering.generated))
