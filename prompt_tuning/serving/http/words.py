"""`GET /words?model=NAME`: the words nearest to a prompt's vectors."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from prompt_tuning.evaluation.nearest_words import nearest_words
from prompt_tuning.serving.http import errors
from prompt_tuning.serving.http.errors import ApiError, Json
from prompt_tuning.serving.http.service import Service


async def words(request: HttpRequest) -> Response:
  """Returns pairs of word and similarity, one list for each vector."""
  service: Service = request.app.state.service
  model = service.engine.model
  name = service.prompt_of(request.query_params.get('model', service.name))
  if name is None:
    raise ApiError(400, 'The base model has no vectors. Write /words?model=NAME with the name of a prompt.',
                   param='model')
  with errors.answered():
    loaded = service.engine.prompts.get(name)
    vectors = loaded.vectors
    if vectors is None:
      in_front = getattr(loaded.in_front, model.prompted).prompt
      vectors = None if in_front is None else in_front[0]
    if vectors is None:
      raise ApiError(400, f'{name} has no vectors among embedded tokens, so it has no nearest words. Choose a '
                     'prompt, not a prefix.', param='model')
    return Json({'words': await run_in_threadpool(nearest_words, model, vectors)})
