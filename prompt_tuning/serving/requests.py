"""Requests to the engine, and what it returns."""

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prompt_tuning.names import require_number


class UnknownPrompt(LookupError):
  """No prompt of this name is loaded; the message has the nearest names."""


class QueueFull(RuntimeError):
  """The queue is full; try again after `retry_after` seconds."""

  retry_after: int = 1


class Draining(RuntimeError):
  """The engine is shutting down, and takes no new requests."""


class EngineFailed(RuntimeError):
  """The request was running when the engine failed; the cause is the exception's `__cause__`."""


@dataclasses.dataclass(frozen=True)
class Request:
  """A request for one answer.

  Attributes:
    ids: the tokens of the input as the model reads them (`Engine.ids_of` makes them from a text), or `Turns`.
    prompt: the name of a loaded prompt; None is the frozen model alone.
    max_tokens: the most tokens of the answer, end token included; 0 only scores the input.
    temperature: 0 takes the likeliest token.
    topk, topp, minp: see `decoding.Sampling`; 0 cuts nothing.
    seed: seed of the noise, which nothing else in the engine influences.
    number: the index of this answer among several for one input, which makes their noise differ.
    stop: texts that end the answer.
    top: K, the likeliest tokens that come with each token, up to 20; None: tokens come without scores.
    echo: the input's tokens are scored too (decoder-only models); see `Answer.input_tokens`.
    timeout: seconds from now after which the request is cancelled; None is no limit.

  Raises:
    ValueError: a value cannot be used.
  """

  ids: Sequence[int] | Any
  prompt: str | None = None
  max_tokens: int = 16
  temperature: float = 0.0
  topk: int = 0
  topp: float = 0.0
  minp: float = 0.0
  seed: int = 0
  number: int = 0
  stop: tuple[str, ...] = ()
  top: int | None = None
  echo: bool = False
  timeout: float | None = None

  def __post_init__(self) -> None:
    for name, limits in (
        ('max_tokens', {'least': 0, 'whole': True}), ('temperature', {'least': 0}),
        ('topk', {'least': 0, 'whole': True}), ('topp', {'least': 0, 'most': 1}), ('minp', {'least': 0, 'most': 1}),
        ('seed', {'least': 0, 'below': 2**32, 'whole': True}), ('number', {'least': 0, 'whole': True}),
        ('top', {'least': 0, 'most': 20, 'whole': True, 'none': True}), ('timeout', {'least': 0, 'none': True})):
      require_number(name, getattr(self, name), **limits)
    if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
      raise ValueError(f'stop={self.stop!r:.80} cannot be used: expected texts of at least one character.')
    if self.max_tokens == 0 and not self.echo:
      raise ValueError('max_tokens=0 asks for nothing without echo=True, which scores the input.')


@dataclasses.dataclass(frozen=True)
class Token:
  """A generated token, or one of the input.

  Attributes:
    id: the token.
    log_prob: the model's log-probability of it, whatever distribution it was drawn from; None without scores, and of
      the first token of an input.
    top: the likeliest tokens at its position with their log-probabilities, the likeliest first; K of them.
  """

  id: int
  log_prob: float | None = None
  top: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Piece:
  """What has been generated since the previous piece.

  Attributes:
    text: never cuts a character, and holds no part of a stop text.
    tokens: may be ahead of the text, which waits for whole characters and for what may become a stop text.
    ended: why the answer ended with this piece: 'end' (token), 'stop' (text), 'length', 'cancelled', 'timeout' or
      'failed'; None: it continues.
  """

  text: str = ''
  tokens: tuple[Token, ...] = ()
  ended: str | None = None


class Answer:
  """A growing answer. Iterating over it yields pieces, and waits for them; other threads may call `cancel`.

  Attributes:
    request: what was asked.
    input_length: the number of the input's tokens; vectors of a prompt do not count.
    input_tokens: with `echo`, the input's tokens with their scores, complete before the first piece is delivered.
    error: what made the engine fail, if `ended` is 'failed'.
  """

  def __init__(self, request: Request, deliver: Callable[[Piece], None] | None = None):
    self.request = request
    self.input_length = 0
    self.input_tokens: tuple[Token, ...] = ()
    self.error: BaseException | None = None
    self.cancelled = threading.Event()
    self._pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
    self.deliver = deliver or self._pieces.put

  def __iter__(self) -> Iterator[Piece]:
    while True:
      piece = self._pieces.get()
      yield piece
      if piece.ended:
        return

  def result(self) -> Piece:
    """Waits for the end; returns all of the answer as one piece.

    Raises:
      EngineFailed: the engine failed.
      TimeoutError: the request's `timeout` passed.
    """
    pieces = list(self)
    ended = pieces[-1].ended
    if ended == 'failed':
      raise EngineFailed('The engine failed while it generated this answer.') from self.error
    if ended == 'timeout':
      raise TimeoutError(f'The answer took longer than timeout={self.request.timeout} s.')
    return Piece(''.join(piece.text for piece in pieces), tuple(token for piece in pieces for token in piece.tokens),
                 ended)

  def cancel(self) -> None:
    """Cancels the answer: its last piece comes soon, with `ended` 'cancelled' unless it had just ended."""
    self.cancelled.set()


@dataclasses.dataclass(frozen=True)
class Stats:
  """The engine at this moment.

  Attributes:
    running: answers in slots.
    waiting: requests in the queue.
    slots: how many answers can run at once.
    prompts: loaded prompts.
    prompt_bytes: memory of the keys and values of prompts that are kept.
    decode_steps: decoding steps since the start.
    programs: compiled programs.
  """

  running: int
  waiting: int
  slots: int
  prompts: int
  prompt_bytes: int
  decode_steps: int
  programs: int
