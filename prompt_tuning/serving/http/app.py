"""The routes of the server, as an ASGI application."""

import pathlib
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from prompt_tuning.serving.http import chat, completions, metrics, models, tokenizer, words
from prompt_tuning.serving.http.errors import ApiError, Json
from prompt_tuning.serving.http.gateway import Gateway
from prompt_tuning.serving.http.service import Service

_PAGE = pathlib.Path(__file__).parent / 'playground.html'


def application(service: Service) -> Any:
  """Returns the application that serves a service."""
  made = Starlette(routes=[
    Route('/v1/completions', completions.completions, methods=['POST']),
    Route('/v1/chat/completions', chat.chat, methods=['POST']),
    Route('/v1/models', models.models),
    Route('/v1/models/{name:path}', models.model),
    Route('/v1/load_prompt', models.load, methods=['POST']),
    Route('/v1/unload_prompt', models.unload, methods=['POST']),
    Route('/tokenize', tokenizer.tokenize, methods=['POST']),
    Route('/detokenize', tokenizer.detokenize, methods=['POST']),
    Route('/tokenizer_info', tokenizer.info),
    Route('/words', words.words),
    Route('/health', _health),
    Route('/ready', _ready),
    Route('/metrics', _metrics),
    Route('/', _playground),
  ], exception_handlers={ApiError: _error, HTTPException: _unknown, ClientDisconnect: _left, Exception: _defect})
  made.state.service = service
  return Gateway(made, service)


async def _health(request: HttpRequest) -> Response:
  """Answers 200 as long as the process lives and its engine has not failed."""
  failed = request.app.state.service.failed
  return Json({'status': 'failed' if failed else 'alive'}, 500 if failed else 200)


async def _ready(request: HttpRequest) -> Response:
  """Answers 200 once the model is loaded and compiled, until the server ends."""
  request.app.state.service.engine  # noqa: B018 - raises the error that says why not
  return Json({'status': 'ready'})


async def _metrics(request: HttpRequest) -> Response:
  return Response(request.app.state.service.metrics.text(), headers={'Content-Type': metrics.CONTENT_TYPE})


async def _playground(request: HttpRequest) -> Response:
  return FileResponse(_PAGE)


async def _error(request: HttpRequest, error: Exception) -> Response:
  assert isinstance(error, ApiError)
  return error.response()


async def _unknown(request: HttpRequest, error: Exception) -> Response:
  assert isinstance(error, HTTPException)
  routes = ', '.join(route.path for route in request.app.routes)
  found = f'{request.method} {request.url.path[:200]}'
  return ApiError(error.status_code, f'{found}: {error.detail}. The routes are {routes}.',
                  headers=dict(error.headers or {})).response()


async def _left(request: HttpRequest, error: Exception) -> Response:
  return ApiError(499, 'The client has disconnected.').response()


async def _defect(request: HttpRequest, error: Exception) -> Response:
  return ApiError(500, "The server has a bug; its log has the reason, under this response's x-request-id.").response()
