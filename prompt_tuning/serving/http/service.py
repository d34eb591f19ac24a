"""What all routes share: the engine, the names of what it serves, limits."""

import dataclasses
import functools
import secrets
import time
from collections.abc import Sequence
from typing import Any

from prompt_tuning.data.token_texts import TokenTexts
from prompt_tuning.names import nearest
from prompt_tuning.rows.token_ids import require_ids
from prompt_tuning.serving.http import errors
from prompt_tuning.serving.http.errors import ApiError
from prompt_tuning.serving.http.fields import Generation
from prompt_tuning.serving.http.metrics import Metrics
from prompt_tuning.serving.requests import Request


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one request may ask for.

  Attributes:
    body: bytes of a body.
    n: answers to one input.
    answers: answers of one request, as many as slots and queue hold.
    seconds: the time that an answer may take, including the queue; None sets no limit.
  """

  body: int = 16 * 2**20
  n: int = 16
  answers: int = 1088
  seconds: float | None = None


class Service:
  """What is served.

  Args:
    name: the base model's name.
    api_key: the bearer token that clients must send; None accepts every request.
    loadable: the folder below which clients may load prompts; None forbids it.
    limits: of one request.
    log_texts: the access log has inputs and answers too.
  """

  def __init__(self, name: str, *, api_key: str | None = None, loadable: str | None = None, limits: Limits = Limits(),
               log_texts: bool = False):
    self.name, self.api_key, self.loadable, self.limits, self.log_texts = name, api_key, loadable, limits, log_texts
    self.metrics = Metrics(name)
    self.created = {name: int(time.time())}  # of models
    self.draining = False
    self._engine: Any = None

  @property
  def engine(self) -> Any:
    """The engine.

    Raises:
      ApiError: it is being loaded, or takes nothing new.
    """
    if self.draining:
      raise errors.draining()
    if self._engine is None:
      raise ApiError(503, 'The model is being loaded. Send the request again when /ready answers 200.', code='loading',
                     headers={'Retry-After': '5'})
    if self._engine.failed is not None:
      raise errors.failed()
    return self._engine

  @property
  def failed(self) -> bool:
    """Whether the engine has ended because it failed."""
    return self._engine is not None and self._engine.failed is not None

  def serve(self, engine: Any) -> None:
    """Serves an engine that has been started."""
    self.metrics.watch(engine)
    self._engine = engine

  def loaded(self, name: str) -> None:
    """Notes when a prompt was loaded."""
    self.created[name] = int(time.time())

  @functools.cached_property
  def texts(self) -> TokenTexts:
    """The texts of the model's tokens."""
    return TokenTexts(self.engine.model.vocabulary)

  def names(self) -> list[str]:
    """Returns the names of the base model and of all prompts."""
    return [self.name, *sorted(self.engine.prompts.names())]

  def prompt_of(self, model: str) -> str | None:
    """Returns the prompt that a request names, as `name` or `base:name`; None for the base model.

    Raises:
      ApiError: 404 with the nearest names.
    """
    if model == self.name:
      return None
    for name in (model, model.removeprefix(f'{self.name}:')):
      if name in self.engine.prompts:
        return name
    known = self.names()
    raise ApiError(404, f'There is no model {model!r:.100}.{nearest(model[:200], known)} GET /v1/models lists all '
                   f'{len(known)}.', param='model', code='model_not_found')

  def requests(self, fields: Generation, rows: Sequence[Any], prompt: str | None, **settings: Any) -> list[Request]:
    """Returns what the engine is asked: `n` answers to each row.

    Args:
      fields: of the body.
      rows: the token ids, or turns, of each input.
      prompt: its name.
      **settings: further ones of `Request`.

    Raises:
      ApiError: 400; something cannot be used.
    """
    if fields.n > self.limits.n:
      raise ApiError(400, f'n={fields.n} is more than this server allows, {self.limits.n}. Ask for fewer, or '
                     'send several requests.', param='n')
    count = fields.n * len(rows)
    if count > self.limits.answers:
      raise ApiError(400, f'The request asks for {count} generations, but slots and queue hold {self.limits.answers}. '
                     'Send several requests.', param='n' if fields.n > len(rows) else 'prompt')
    seeds = [secrets.randbits(32) if fields.seed is None else fields.seed % 2**32 for _ in rows]
    with errors.answered():
      return [Request(ids=row, prompt=prompt, temperature=fields.temperature, topk=max(fields.top_k, 0),
                      topp=0.0 if fields.top_p == 1 else fields.top_p, minp=fields.min_p, seed=seed, number=number,
                      stop=fields.stops, timeout=self.limits.seconds, **settings)
              for row, seed in zip(rows, seeds, strict=True) for number in range(fields.n)]

  def require_ids(self, ids: Sequence[int], where: str) -> None:
    """Raises ApiError if something is not a token of the model."""
    with errors.answered():
      require_ids(ids, self.engine.model.module.config.vocab_size, where)
