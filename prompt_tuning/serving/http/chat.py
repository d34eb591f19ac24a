"""`POST /v1/chat/completions`: messages through the model's own chat template."""

import dataclasses
import re
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from prompt_tuning.data.token_texts import TokenTexts
from prompt_tuning.serving.http import errors, generating, scores
from prompt_tuning.serving.http.errors import ApiError
from prompt_tuning.serving.http.fields import Chat, read
from prompt_tuning.serving.http.service import Service
from prompt_tuning.serving.requests import Answer, Piece, Request


async def chat(request: HttpRequest) -> Response:
  """Answers a conversation."""
  return await generating.answer(request, _asked, 'messages')


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
                   'two names for one limit. Give one of them.', param='max_tokens')
  rows = _rows(service, fields.messages)
  with errors.answered():
    most = limits.pop() if limits else service.engine.room(rows[0], prompt)
  requests = service.requests(fields, rows, prompt, max_tokens=most,
                              top=(fields.top_logprobs or 0) if fields.logprobs else None)
  return fields, requests, _Form(service.texts, fields.logprobs, [True] * len(requests))


def _rows(service: Service, messages: list[Any]) -> list[Any]:
  """Returns the conversation as the model's template writes it. Raises ApiError if it cannot."""
  try:
    return service.engine.model.chat_format.questions([messages])
  except ValueError as error:
    text = str(error)
    if 'has no chat template' in text:
      text = f'{service.name} has no chat template, so it cannot answer conversations. Use /v1/completions.'
    place = lambda found: f'messages[{found[2]}]' if found[2] else 'messages'
    text = re.sub(r'^Conversation 0(: turn (\d+))?', place, text)
    raise ApiError(400, text, param='messages') from error


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
