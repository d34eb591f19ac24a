"""`POST /v1/chat/completions`: messages through the model's own chat template."""

import dataclasses
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from prompt_tuning.serving.http import errors, generating, scores
from prompt_tuning.serving.http.errors import ApiError
from prompt_tuning.serving.http.fields import Chat, read
from prompt_tuning.serving.http.service import Service
from prompt_tuning.serving.http.token_texts import TokenTexts
from prompt_tuning.serving.requests import Answer, Piece, Request


async def chat(request: HttpRequest) -> Response:
  """Answers a conversation."""
  service: Service = request.app.state.service
  service.engine  # noqa: B018 - it takes requests
  body = await request.body()
  fields, requests, form = await run_in_threadpool(_asked, service, body)
  if service.log_texts:
    request.scope['record']['inputs'] = fields.messages
  return await generating.respond(request, service, fields, requests, form)


def _asked(service: Service, body: bytes) -> tuple[Chat, list[Request], '_Form']:
  """Returns a body's fields, what the engine is asked, and the form of the answers."""
  fields = read(body, Chat)
  prompt = service.prompt_of(fields.model)
  if fields.top_logprobs and not fields.logprobs:
    raise ApiError(400, f'top_logprobs={fields.top_logprobs} cannot be used without logprobs=true.',
                   param='top_logprobs')
  limits = {fields.max_tokens, fields.max_completion_tokens} - {None}
  if len(limits) == 2:
    raise ApiError(400, f'max_tokens={fields.max_tokens} and max_completion_tokens={fields.max_completion_tokens} are '
                   'two names of one limit. Give one of them.', param='max_tokens')
  with errors.answered():
    rows = service.engine.model.chat_format.questions([fields.messages])
    most = limits.pop() if limits else service.engine.room(rows[0], prompt)
  requests = service.requests(fields, rows, prompt, max_tokens=most,
                              top=(fields.top_logprobs or 0) if fields.logprobs else None)
  return fields, requests, _Form(service.texts, fields.logprobs, [True] * len(requests))


@dataclasses.dataclass(frozen=True)
class _Form:
  """See `generating.Form`.

  Attributes:
    texts: of the tokens.
    scored: whether log-probabilities are asked for.
    fresh: whether an answer has no token yet.
  """

  texts: TokenTexts
  scored: bool
  fresh: list[bool]
  kind: str = 'chat.completion'
  chunk_kind: str = 'chat.completion.chunk'

  def choice(self, index: int, answer: Answer, piece: Piece) -> dict[str, Any]:
    """Returns the choice of a whole answer."""
    return {'index': index, 'message': {'role': 'assistant', 'content': piece.text},
            'logprobs': self._scores(index, piece), 'finish_reason': generating.REASONS.get(piece.ended)}

  def opening(self, index: int, answer: Answer) -> dict[str, Any]:
    """Returns the role, which a stream begins with."""
    return {'index': index, 'delta': {'role': 'assistant', 'content': ''}, 'logprobs': None, 'finish_reason': None}

  def change(self, index: int, answer: Answer, piece: Piece) -> dict[str, Any]:
    """Returns the choice of a piece."""
    return {'index': index, 'delta': {'content': piece.text} if piece.text else {},
            'logprobs': self._scores(index, piece), 'finish_reason': generating.REASONS.get(piece.ended)}

  def _scores(self, index: int, piece: Piece) -> dict[str, Any] | None:
    if not self.scored:
      return None
    first, self.fresh[index] = self.fresh[index], self.fresh[index] and not piece.tokens
    return scores.chat(self.texts, piece.tokens, first)
