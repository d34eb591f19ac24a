"""`POST /v1/completions`: texts or token ids in, texts out."""

import dataclasses
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from prompt_tuning.data.token_texts import TokenTexts
from prompt_tuning.files.json_files import shown
from prompt_tuning.serving.http import errors, generating
from prompt_tuning.serving.http.errors import ApiError
from prompt_tuning.serving.http.fields import Completion, read
from prompt_tuning.serving.http.scores import Completions as Scores
from prompt_tuning.serving.http.service import Service
from prompt_tuning.serving.requests import Answer, Piece, Request


async def completions(request: HttpRequest) -> Response:
  """Answers a request for completions."""
  return await generating.answer(request, _asked, 'prompt')


def _asked(service: Service, body: bytes) -> tuple[Completion, list[Request], '_Form']:
  """Returns a body's fields, what the engine is asked, and the form of the answers."""
  fields = read(body, Completion)
  prompt = service.prompt_of(fields.model)
  if fields.max_tokens == 0 and not fields.echo:
    raise ApiError(400, 'max_tokens=0 asks for nothing without echo=true, which scores the input.', param='max_tokens')
  if fields.echo and service.engine.model.prompted == 'encoder':
    raise ApiError(400, 'echo=true cannot be used: this model reads its input with an encoder, which gives it no '
                   'scores. Leave echo out.', param='echo')
  rows = _rows(fields.prompt)
  with errors.answered():
    ids = [service.engine.ids_of(row) if isinstance(row, str) else row for row in rows]
  for place, row in enumerate(ids):
    service.require_ids(row, f'Row {place} of prompt')
  scored = fields.echo and (fields.logprobs is not None or fields.max_tokens == 0)
  requests = service.requests(fields, ids, prompt, max_tokens=fields.max_tokens, top=fields.logprobs, echo=scored)
  echoes = [row if isinstance(row, str) else service.texts.join(row) for row in rows for _ in range(fields.n)]
  return fields, requests, _Form(service.texts, echoes if fields.echo else None, fields.logprobs is not None,
                                 [Scores(service.texts) for _ in requests])


def _rows(prompt: str | list[Any]) -> list[str | list[int]]:
  """Returns the inputs of a `prompt`: texts and lists of token ids.

  Raises:
    ApiError: 400; it is none of str, [str], [int], [[int]], or holds nothing.
  """
  rows = [prompt] if isinstance(prompt, str) or (prompt and all(map(_is_id, prompt))) else prompt
  for place, row in enumerate(rows):
    if not (isinstance(row, str) or (isinstance(row, list) and all(map(_is_id, row)))):
      raise ApiError(400, f'prompt[{place}]={shown(row)} cannot be used: prompt is a text, a list of token ids, or a '
                     'list of these.', param='prompt')
    if not row:
      raise ApiError(400, f'prompt[{place}] is empty. Give a text, or at least one token id.', param='prompt')
  if not rows:
    raise ApiError(400, 'prompt is empty. Give a text, a list of token ids, or a list of these.', param='prompt')
  return rows


def _is_id(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class _Form:
  """See `generating.Form`.

  Attributes:
    texts: of the tokens.
    echoes: the text of each answer's input; None if they are not asked for.
    scored: whether log-probabilities are asked for.
    scores: of each answer.
  """

  texts: TokenTexts
  echoes: list[str] | None
  scored: bool
  scores: list[Scores]
  kind: str = 'text_completion'
  chunk_kind: str = 'text_completion'

  def choice(self, index: int, answer: Answer, piece: Piece) -> dict[str, Any]:
    """Returns the choice of a whole answer."""
    first, second = self.opening(index, answer), self.change(index, answer, piece)
    if first is None:
      return second
    scores = {name: values + second['logprobs'][name] for name, values in first['logprobs'].items()
              } if self.scored else None
    return {**second, 'text': first['text'] + second['text'], 'logprobs': scores}

  def opening(self, index: int, answer: Answer) -> dict[str, Any] | None:
    """Returns the input, if it is asked for."""
    if self.echoes is None:
      return None
    scores = self.scores[index].of(answer.input_tokens) if self.scored else None
    self.scores[index].restart()
    return {'index': index, 'text': self.echoes[index], 'logprobs': scores, 'finish_reason': None}

  def change(self, index: int, answer: Answer, piece: Piece) -> dict[str, Any]:
    """Returns the choice of a piece."""
    return {'index': index, 'text': piece.text,
            'logprobs': self.scores[index].of(piece.tokens) if self.scored else None,
            'finish_reason': generating.REASONS.get(piece.ended)}
