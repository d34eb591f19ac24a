"""`/tokenize`, `/detokenize` and `/tokenizer_info`, which lm-evaluation-harness uses as a remote tokenizer."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from prompt_tuning.serving.http import errors
from prompt_tuning.serving.http.errors import Json
from prompt_tuning.serving.http.fields import Detokenize, Tokenize, read
from prompt_tuning.serving.http.service import Service


async def tokenize(request: HttpRequest) -> Response:
  """Returns the tokens of a text; with `add_special_tokens`, as the model reads an input."""
  service: Service = request.app.state.service
  fields = read(await request.body(), Tokenize)
  if fields.model is not None:
    service.prompt_of(fields.model)
  engine = service.engine
  encode = engine.ids_of if fields.add_special_tokens else engine.model.vocabulary.encode
  with errors.answered():
    ids = list(map(int, await run_in_threadpool(encode, fields.prompt)))
  return Json({'tokens': ids, 'count': len(ids), 'max_model_len': engine.max_length})


async def detokenize(request: HttpRequest) -> Response:
  """Returns the text of tokens, control tokens included."""
  service: Service = request.app.state.service
  fields = read(await request.body(), Detokenize)
  if fields.model is not None:
    service.prompt_of(fields.model)
  service.require_ids(fields.tokens, 'tokens')
  return Json({'prompt': await run_in_threadpool(service.texts.join, fields.tokens)})


async def info(request: HttpRequest) -> Response:
  """Returns the control tokens and the chat template."""
  service: Service = request.app.state.service
  model = service.engine.model
  words = model.vocabulary
  name = lambda token: None if token is None else words.piece(token)
  try:
    template = model.chat_format.template.source
  except ValueError:  # it has none
    template = None
  return Json({'eos_token': name(words.eos_id), 'bos_token': name(words.bos_id), 'pad_token': name(words.pad_id),
               'chat_template': template})
