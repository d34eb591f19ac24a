"""The engine: continuous batching of many answers, each with its own prompt, over slots of one frozen model.

  engine = Engine(pt.load_model('/models/qwen'))
  engine.prompts.load('reviews', 'runs/reviews')
  with engine:
    answer = engine.submit(Request(engine.ids_of('Good film!'), prompt='reviews', max_tokens=8))
    print(answer.result().text)

A separate thread takes requests from the queue into slots, reads their inputs in packs, and lets one decoding step
generate a token in every slot. An answer does not depend on the others: its noise depends on its seed and on the
numbers of its tokens alone.
"""

import atexit
import threading
from collections.abc import Callable
from typing import Any

from absl import logging

from prompt_tuning.data.preprocessing import stand_in
from prompt_tuning.models import packed
from prompt_tuning.models.abilities import require_writing
from prompt_tuning.models.text_rows import text_rows
from prompt_tuning.names import require_number
from prompt_tuning.serving import bank as banks
from prompt_tuning.serving.groups import Group, class_of, places_of, warm_up
from prompt_tuning.serving.prompts import Prompts
from prompt_tuning.serving.requests import Answer, Draining, EngineFailed, Piece, QueueFull, Request, Stats
from prompt_tuning.serving.running import Running
from prompt_tuning.serving.waiting import Waiting

_PACKS = 4  # packs that may be read between two decoding steps
_FAILURES = 3  # in a row, after which the engine gives up


class Engine:
  """See the top of this file.

  Args:
    model: the frozen model, decoder-only or T5.
    slots: the most answers that run at once.
    max_length: the most places that an answer takes: its prompt, input and tokens.
    queue: the most requests that wait.
    prompt_memory: bytes of the keys and values of prompts that are kept.
    cache_memory: bytes of the caches of running answers; requests wait until there is room.

  Attributes:
    prompts: the loaded prompts.
    ready: whether the first programs are compiled.
    failed: the exception that ended the engine, or None.
    wait_failed: set when `failed` is.

  Raises:
    ValueError: the model cannot be served, or a number is out of range.
  """

  def __init__(self, model: Any, *, slots: int = 64, max_length: int = 2048, queue: int = 1024,
               prompt_memory: int = 1 << 30, cache_memory: int = 4 << 30):
    config = model.module.config
    require_writing(model.module, 'be served')
    for name, value in (('slots', slots), ('max_length', max_length), ('queue', queue)):
      require_number(name, value, least=1, whole=True)
    if getattr(config, 'prefix_lm', False) or getattr(config, 'features', 0) or getattr(config, 'classes', 0):
      raise ValueError('This model cannot be served: its inputs see what follows them, or are not tokens. Use '
                       '`predict`.')
    self.model, self.slots = model, slots
    self.max_length = min(max_length, getattr(config, 'position_limit', 0) or max_length)
    self.prompts = Prompts(model, prompt_memory, self.max_length)
    self.ready, self.failed, self.wait_failed = False, None, threading.Event()
    least = banks.size_of(model, 1, places_of(dict.fromkeys(packed.cache_shapes(model.module), 1), 1))
    if cache_memory < least:
      raise ValueError(f'cache_memory={cache_memory} is less than the smallest cache of one answer, {least} bytes. '
                       'Give more.')
    self._cache_memory = cache_memory
    self._waiting: Waiting[Running] = Waiting(queue)
    self._groups: dict[int, Group] = {}
    self._state = 'new'  # then 'running', 'draining', 'closing'
    self._idle = threading.Event()
    self._steps = 0
    self._names = tuple(packed.cache_shapes(model.module))
    self._thread = threading.Thread(target=self._run, name='engine', daemon=True)

  def start(self) -> 'Engine':
    """Compiles the first programs, and starts to generate."""
    self._state = 'running'
    warm_up(self.model, self.slots)
    self.ready = True
    self._thread.start()
    atexit.register(self.close)  # a thread that runs compiled programs must end before Python does
    return self

  def __enter__(self) -> 'Engine':
    return self.start()

  def __exit__(self, *_: Any) -> None:
    self.close()

  def ids_of(self, text: str) -> list[int]:
    """Returns a text's tokens as inputs are read: with a begin token, and an end token if the model expects them."""
    return list(text_rows([text], 'inputs', vocabulary=self.model.vocabulary, layout=self.model.layout(),
                          size=self.model.module.config.vocab_size)[0].ids)

  def submit(self, request: Request, deliver: Callable[[Piece], None] | None = None) -> Answer:
    """Puts a request into the queue. May be called from any thread, and does not wait.

    Args:
      request: what is asked.
      deliver: called with each piece, from the engine's thread; it must return at once. Without it, pieces are read
        from the answer.

    Raises:
      UnknownPrompt: no prompt of the request's name is loaded.
      QueueFull: the queue is full.
      Draining: the engine is shutting down.
      EngineFailed: it has failed.
      ValueError: the answer does not fit, or its input cannot be read.
    """
    if self.failed is not None:
      raise EngineFailed('The engine has failed, and takes no requests.') from self.failed
    if self._state in ('draining', 'closing'):
      raise Draining('The engine is shutting down, and takes no new requests.')
    answer = Answer(request, deliver)
    running = self._prepared(answer)
    self._idle.clear()
    if not self._waiting.put(request.prompt, running, max(0, self.slots - self._count)):
      raise QueueFull(f'{self._waiting.most} requests wait, which is the limit. Try again later.')
    return answer

  def _prepared(self, answer: Answer) -> Running:
    """Returns an answer with its input laid out. Raises ValueError if it does not fit."""
    request, model = answer.request, self.model
    if request.echo and model.prompted == 'encoder':
      raise ValueError('echo=True cannot be used: this model reads inputs with an encoder, which scores nothing.')
    running = self._running(answer)
    answer.input_length = len(request.ids)
    for name, count in running.needs.items():
      if count > self.max_length:
        raise ValueError(f'The request needs {count} positions ({running.told(name)}), but max_length is '
                         f'{self.max_length}. Shorten the input, or ask for fewer tokens.')
    if banks.size_of(model, 1, places_of(running.needs, 1)) > self._cache_memory:
      raise ValueError(f'The keys and values of this request take '
                       f'{banks.size_of(model, 1, places_of(running.needs, 1)):,} bytes, but cache_memory is '
                       f'{self._cache_memory:,}. Shorten the input, ask for fewer tokens, or serve with more memory.')
    return running

  def _running(self, answer: Answer) -> Running:
    """Returns an answer with its input laid out."""
    loaded, ids = self.prompts.get(answer.request.prompt), answer.request.ids
    ids = ids if len(ids) else stand_in(self.model.vocabulary, loaded.layout)
    return Running(answer, loaded, loaded.layout.question(ids), self.model)

  def room(self, ids: Any, prompt: str | None = None) -> int:
    """Returns the most tokens that an answer to an input may have; at least 1.

    Args:
      ids: as in `Request`.
      prompt: likewise.

    Raises:
      UnknownPrompt: no prompt of this name is loaded.
      ValueError: the input cannot be read.
    """
    running = self._running(Answer(Request(ids, prompt, max_tokens=1)))
    return max(1, self.max_length - running.needs['self'] + 1)

  def stats(self) -> Stats:
    """Returns the engine's numbers at this moment."""
    programs = sum(function._cache_size() for function in (
      banks._step, banks._grown, banks._advanced, banks._choose, banks._put, banks._put_state, banks._take,
      banks._resized, packed.read_pack, packed.before))
    return Stats(self._count, len(self._waiting), self.slots, len(self.prompts), self.prompts.bytes, self._steps,
                 programs)

  def drain(self, timeout: float | None = None) -> bool:
    """Refuses new requests, and waits until all others have ended; returns True if they have."""
    self._state = 'draining'
    self._waiting.wake()
    return self._idle.wait(timeout)

  def close(self) -> None:
    """Ends the engine; running answers are cancelled."""
    started, self._state = self._state != 'new', 'closing'
    self._waiting.wake()
    if started and self._thread.is_alive():
      self._thread.join()
    atexit.unregister(self.close)

  def _run(self) -> None:
    failures = 0
    while self._state != 'closing' and self.failed is None:
      try:
        if not self._groups and not len(self._waiting):
          self._idle.set()
          self._waiting.wait(0.1 if self._state == 'draining' else 1.0)
        elif self._turn():
          failures = 0
      except Exception as error:
        failures += 1
        logging.exception('The engine failed (failure %d in a row; it gives up after %d).', failures, _FAILURES)
        self._end_all('failed', error, waiting=failures >= _FAILURES)
        if failures >= _FAILURES:
          self.failed = error
    self._end_all('failed' if self.failed else 'cancelled', self.failed, waiting=True)
    self._idle.set()
    if self.failed is not None:
      self.wait_failed.set()

  def _turn(self) -> bool:
    """Does what is next: ends abandoned answers, fills slots, reads inputs, generates a token for each answer.

    Returns:
      Whether there was something to read or to generate.
    """
    for running in self._waiting.remove(lambda running: running.given_up):
      _deliver(running, Piece(ended=running.given_up))
    for key, group in list(self._groups.items()):
      for running in group.members:
        if running is not None and running.given_up:
          self._hand_over(group, running, Piece(ended=running.given_up))
      if not group.count:
        del self._groups[key]
    self._admit()
    steps, packs = self._steps, 0
    while packs < _PACKS or not any(group.decodes for group in self._groups.values()):
      unread = next((group for group in self._groups.values() if group.unread), None)
      if unread is None:
        break
      for running in unread.read():
        self._begin(unread, running)
      packs += 1
    for group in list(self._groups.values()):
      if group.decodes:
        self._steps += 1
        for running, piece in group.decode():
          self._hand_over(group, running, piece)
    return packs > 0 or self._steps > steps

  def _admit(self) -> None:
    """Takes requests from the queue into free slots."""

    def has_room(running: Running, expected: int = 0) -> bool:
      key = class_of(running.needs)
      others = sum(group.size for other, group in self._groups.items() if other != key)
      group = self._groups.get(key) or Group(self.model, self.slots)
      return others + banks.size_of(self.model, *group.shape(running, expected=expected)) <= self._cache_memory

    while (running := self._waiting.take(
        lambda running: self._count < self.slots and (not self._groups or has_room(running)))) is not None:
      try:
        before = self.prompts.before(running.loaded)
        expected = len(self._waiting) if has_room(running, len(self._waiting)) else 0
        group = self._groups.setdefault(class_of(running.needs), Group(self.model, self.slots))
        group.add(running, expected)
        group.put_prompt(running, before)
      except Exception as error:
        running.answer.error = error
        _deliver(running, Piece(ended='failed'))
        raise

  def _begin(self, group: Group, running: Running) -> None:
    """Begins the answer to an input that has been read."""
    if running.answer.request.echo:
      running.echo()
    if running.answer.request.max_tokens == 0:
      self._hand_over(group, running, Piece(ended='length'))

  def _hand_over(self, group: Group, running: Running, piece: Piece) -> None:
    """Delivers a piece, and frees the answer's slot if it is the last one."""
    if piece.ended:
      group.remove(running)
    _deliver(running, piece)

  @property
  def _count(self) -> int:
    return sum(group.count for group in list(self._groups.values()))

  def _end_all(self, ended: str, error: BaseException | None, *, waiting: bool) -> None:
    """Ends all answers that are running, and with `waiting` those in the queue."""
    left = [running for group in self._groups.values() for running in group.running if running.answer.error is None]
    self._groups = {}
    for running in [*left, *(self._waiting.remove(lambda _: True) if waiting else ())]:
      running.answer.error = error
      _deliver(running, Piece(ended=ended))


def _deliver(running: Running, piece: Piece) -> None:
  try:
    running.answer.deliver(piece)
  except Exception:
    logging.exception('The receiver of an answer failed; the answer is cancelled.')
    running.answer.cancel()
