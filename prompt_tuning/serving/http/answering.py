"""The answers to one HTTP request, on their way from the engine's thread to the event loop."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from prompt_tuning.serving.http import errors
from prompt_tuning.serving.http.metrics import Metrics
from prompt_tuning.serving.requests import Answer, Piece, Request


class Answering:
  """Asks the engine, and yields what it delivers. It must be closed, which cancels what has not ended.

  Args:
    engine: the engine.
    requests: what is asked for.
    metrics: where the answers are counted, under `label`.
    label: the name of the prompt, or of the base model.
    pieces: deliver pieces as they come; otherwise each answer comes whole, which wakes the event loop once.

  Raises:
    ApiError: the engine does not take all of the requests; then it works on none of them.
  """

  def __init__(self, engine: Any, requests: Sequence[Request], metrics: Metrics, label: str, *, pieces: bool):
    self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Piece]]()
    self._metrics, self._label, self._begun = metrics, label, time.perf_counter()
    self._open: set[int] = set()
    self.answers: list[Answer] = []
    self.generated = [0] * len(requests)
    try:
      with errors.answered():
        for index, request in enumerate(requests):
          self.answers.append(engine.submit(request, self._delivering(index, pieces)))
          self._open.add(index)
    except BaseException:
      self.close()
      raise

  @property
  def input_tokens(self) -> int:
    """The tokens of all inputs, each counted once however many answers it has."""
    return sum(answer.input_length for answer in self.answers if answer.request.number == 0)

  async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
    while self._open:
      index, piece = await self._queue.get()
      if piece.ended:
        self._open.discard(index)
      if piece.ended == 'failed':
        raise errors.failed() from self.answers[index].error
      if piece.ended == 'timeout':
        raise errors.late(self.answers[index].request.timeout)
      if piece.ended == 'cancelled':  # not by a client: its connection would be closed
        raise errors.draining()
      self.generated[index] += len(piece.tokens)
      yield index, piece

  def close(self) -> None:
    """Cancels the answers that have not ended."""
    for index in self._open:
      self.answers[index].cancel()

  def _delivering(self, index: int, pieces: bool) -> Callable[[Piece], None]:
    """Returns what the engine's thread calls with each piece of an answer."""
    parts: list[Piece] = []
    first: list[float] = []
    count = [0]

    def deliver(piece: Piece) -> None:
      now = time.perf_counter()
      if piece.tokens and not first:
        first.append(now)
      count[0] += len(piece.tokens)
      if piece.ended:
        # The answer may end while `submit` still returns it to the event loop, so it is not read here.
        self._metrics.ended(self._label, piece.ended, count[0], self._begun, first[0] if first else None, now)
      if not pieces:
        parts.append(piece)
        if not piece.ended:
          return
        piece = joined(parts)
      with contextlib.suppress(RuntimeError):  # the event loop has been closed
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, piece))

    return deliver


def joined(pieces: Sequence[Piece]) -> Piece:
  """Returns pieces as one."""
  return Piece(''.join(piece.text for piece in pieces), tuple(token for piece in pieces for token in piece.tokens),
               pieces[-1].ended)


async def whole(answering: Answering, receive: Callable[[], Any]) -> list[Piece] | None:
  """Returns all answers, each as one piece; None if the client has disconnected; its answers are cancelled.

  Args:
    answering: what was asked, with `pieces=False`.
    receive: of the ASGI request, whose body has been read.

  Raises:
    ApiError: the engine failed.
  """
  async def gather() -> list[Piece]:
    found = [piece async for piece in answering]
    return [piece for _, piece in sorted(found, key=lambda each: each[0])]

  async def leave() -> None:
    while (await receive())['type'] != 'http.disconnect':
      pass

  tasks = [asyncio.ensure_future(gather()), asyncio.ensure_future(leave())]
  try:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return tasks[0].result() if tasks[0].done() else None
  finally:
    answering.close()
    for task in tasks:
      task.cancel()
