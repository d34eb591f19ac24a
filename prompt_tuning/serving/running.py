"""Answers that are in slots, and the arrays that the programs of a bank read from them."""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.decoding.choose import is_certain
from prompt_tuning.decoding.samplers import Greedy, Sampling
from prompt_tuning.models.packed import Newest, Pack
from prompt_tuning.models.token_scores import TokenScores
from prompt_tuning.rows.assembling import Segment
from prompt_tuning.serving.bank import Draw, key_of
from prompt_tuning.serving.prompts import Loaded
from prompt_tuning.serving.requests import Answer, Piece, Token
from prompt_tuning.serving.texts import GrowingText

AHEAD = 32  # decoding steps for which a bank has places when it grows
MOST_TOP = 20  # the likeliest tokens that are computed if more than one is asked for


class Running:
  """An answer, from its request to its end.

  Args:
    answer: the answer.
    loaded: its prompt.
    row: the input, laid out.
    model: the frozen model.

  Attributes:
    needs: name of a cache -> the places that it needs there.
    filled: name of a cache -> the places that are filled.
    read: positions of the row that were read.
  """

  def __init__(self, answer: Answer, loaded: Loaded, row: Segment, model: Any):
    self.answer, self.loaded = answer, loaded
    self.filled = dict(loaded.lengths)
    self.read = 0
    self._model, request = model, answer.request
    self._deadline = None if request.timeout is None else time.monotonic() + request.timeout
    own = row[model.prompted]
    self.tokens = np.asarray(own['tokens'], np.int32)
    self.slots = np.asarray(own.get('prompt_slots', np.full(len(self.tokens), -1)), np.int32)
    before = lambda name: loaded.lengths.get(name, 0)
    if model.prompted == 'decoder':
      self.to_read = len(self.tokens) - 1  # the last one is read by the first decoding step
      self.needs = {'self': before('self') + self.to_read + max(request.max_tokens, 1)}
      self._target = 'self'
      self._next, self._next_slot = int(self.tokens[-1]), int(self.slots[-1])
    else:
      self.to_read = len(self.tokens)
      self.needs = {'self': before('self') + request.max_tokens, 'memory': before('memory') + self.to_read,
                    'encoder': before('encoder')}
      self._target = 'memory'
      self._next, self._next_slot = loaded.layout.start_id, -1
    self.count = 0  # generated tokens
    self._text = GrowingText(model.vocabulary, request.stop)
    self._scores: list[tuple[np.ndarray, ...]] = []

  def told(self, name: str) -> str:
    """Returns for messages what the places of a cache are used for."""
    vectors, before = int(np.sum(self.slots >= 0)), self.loaded.lengths.get(name, 0)
    reads = name == self._target
    parts = {'of the prompt': before + vectors * reads, 'of the input': (len(self.tokens) - vectors) * reads,
             'generated': self.answer.request.max_tokens * (name == 'self')}
    return ', '.join(f'{count} {what}' for what, count in parts.items() if count)

  @property
  def now(self) -> dict[str, int]:
    """The places that it needs until the next decoding step is done."""
    return self._places_for(1)

  @property
  def soon(self) -> dict[str, int]:
    """The places that it needs for the next decoding steps."""
    return self._places_for(AHEAD)

  def _places_for(self, steps: int) -> dict[str, int]:
    left = {name: 0 for name in self.needs} | {self._target: self.to_read - self.read}
    return {name: min(most, self.filled.get(name, 0) + left[name] + steps) for name, most in self.needs.items()}

  @functools.cached_property
  def key(self) -> np.ndarray:
    """The random key of its noise; computed in the engine's thread, not where requests are submitted."""
    return key_of(self.answer.request.seed, self.answer.request.number)

  @property
  def is_read(self) -> bool:
    """Whether the input has been read, so that tokens can be generated."""
    return self.read == self.to_read

  @property
  def given_up(self) -> str | None:
    """'cancelled' or 'timeout', if nobody waits for the answer any more."""
    if self.answer.cancelled.is_set():
      return 'cancelled'
    return 'timeout' if self._deadline is not None and time.monotonic() > self._deadline else None

  @property
  def top(self) -> int | None:
    """K of the program that scores its tokens; None if they are not scored."""
    asked = self.answer.request.top
    return None if asked is None else 1 if asked <= 1 else MOST_TOP

  def take_scores(self, scores: TokenScores, places: slice) -> None:
    """Keeps the scores of the tokens that follow further positions of the input."""
    top = self.top or 1  # at most K of this pack, which is that of the answer that asks for most
    self._scores.append((scores.log_probs[places], scores.top_ids[places, :top], scores.top_log_probs[places, :top]))

  def echo(self) -> None:
    """Gives the answer its input's tokens with their scores, once all are read."""
    ids = self.tokens[self.slots < 0]
    columns = [np.concatenate(parts) for parts in zip(*self._scores, strict=True)] if self._scores else []
    scored = [None, *range(len(self.tokens) - 1)]  # a position's token is scored at the one before
    found = [Token(int(self.tokens[0]))] if self.slots[0] < 0 else []
    for place in np.flatnonzero(self.slots[1:] < 0) + 1:
      at = scored[place]
      found.append(self._token(int(self.tokens[place]), *(column[at] for column in columns)))
    if len(found) == len(ids) and found:
      found[0] = Token(found[0].id)  # clients expect no score of an input's first token
    self.answer.input_tokens = tuple(found)

  def add(self, token: int, *scores: Any) -> Piece:
    """Returns what a generated token adds to the answer."""
    request = self.answer.request
    self.filled['self'] = self.filled.get('self', 0) + 1
    self.count += 1
    self._next, self._next_slot = token, -1
    if token in self._model.end_ids:
      text, ended = self._text.end(), 'end'
    else:
      text, ended = self._text.add(token), None
      if not self._text.stopped and self.count == request.max_tokens:
        text, ended = text + self._text.end(), 'length'
    if self._text.stopped:
      ended = 'stop'
    return Piece(text, (self._token(token, *scores),), ended)

  def _token(self, token: int, *scores: Any) -> Token:
    asked = self.answer.request.top
    if asked is None or not scores:
      return Token(token)
    log_prob, top_ids, top_log_probs = scores
    top = tuple(zip(top_ids[:asked].tolist(), top_log_probs[:asked].tolist(), strict=True))
    return Token(token, float(log_prob), top)

  @property
  def newest(self) -> tuple[int, np.ndarray | None]:
    """What is read next: a token, or a vector of the prompt."""
    return self._next, None if self._next_slot < 0 else self.loaded.vectors[self._next_slot]


def newest_of(slots: Sequence[Running | None], width: int, names: Sequence[str]) -> Newest:
  """Returns what the slots of a bank read next; those without an answer, or with one that is not read, read nothing."""
  vectors, of_prompt = np.zeros((len(slots), width), np.float32), np.zeros(len(slots), bool)
  tokens, lengths = np.zeros(len(slots), np.int32), {name: np.zeros(len(slots), np.int32) for name in names}
  for b, running in enumerate(slots):
    if running is not None and running.is_read:
      tokens[b], vector = running.newest
      if vector is not None:
        vectors[b], of_prompt[b] = vector, True
      for name in names:
        lengths[name][b] = running.filled.get(name, 0)
  return Newest(tokens, vectors, of_prompt, lengths)


def draw_of(slots: Sequence[Running | None], *, greedy: bool = True) -> Draw:
  """Returns how the next tokens of the slots of a bank are chosen; with `greedy`, by `Greedy` if that is the same."""
  asked = [None if running is None or not running.is_read else running.answer.request for running in slots]
  of = lambda name, kind: np.asarray([getattr(request, name) if request else 0 for request in asked], kind)
  sampling = Sampling(of('temperature', np.float32), of('topk', np.int32), of('topp', np.float32),
                      of('minp', np.float32))
  counts = np.asarray([running.count if running else 0 for running in slots], np.int32)
  keys = np.stack([running.key if running else np.zeros(2, np.uint32) for running in slots])
  certain = greedy and bool(np.all(is_certain(sampling.temperature)))
  return Draw(Greedy() if certain else sampling, keys, counts,
              np.asarray([request is not None for request in asked]))


def pack_of(members: Sequence[tuple[Running, int, int]], length: int, front_length: int) -> tuple[
    Pack, Mapping[str, np.ndarray]]:
  """Returns a pack of parts of inputs, and where its keys and values go to and come from.

  Args:
    members: an answer, its slot, and how many further positions of its row are read.
    length: N.
    front_length: T; 0 if nothing comes before the inputs.

  Returns:
    The pack, and the arrays slots and places [N] that it is written to, front_slots and front_places [T].
  """
  row = {name: np.zeros(length, np.int32) for name in ('tokens', 'segments', 'positions', 'targets', 'slots')}
  row |= {'rows': np.full(length, -1, np.int32), 'places': np.full(length, 1 << 30, np.int32),
          'weights': np.zeros(length, np.float32)}
  front = {'front_segments': np.full(front_length, -1, np.int32), 'front_positions': np.zeros(front_length, np.int32),
           'front_slots': np.zeros(front_length, np.int32)}
  vectors, added, at, front_at = [], [], 0, 0
  offsets: dict[int, int] = {}  # of the vectors of each prompt
  for number, (running, slot, count) in enumerate(members, start=1):
    causal = 'memory' not in running.needs
    own, here = slice(running.read, running.read + count), slice(at, at + count)
    before = running.filled.get('self' if causal else 'encoder', 0)
    written = before if causal else running.filled.get('memory', 0)
    row['tokens'][here], row['segments'][here], row['slots'][here] = running.tokens[own], number, slot
    row['positions'][here] = before + np.arange(count)
    row['places'][here] = written + np.arange(count)
    if running.loaded.vectors is not None:
      key = id(running.loaded)
      if key not in offsets:
        offsets[key] = sum(map(len, vectors))
        vectors.append(running.loaded.vectors)
        added.append(running.loaded.added)
      slots = running.slots[own]
      row['rows'][here] = np.where(slots >= 0, slots + offsets[key], -1)
    if causal and running.answer.request.echo:
      row['targets'][here] = running.tokens[own.start + 1:own.stop + 1]
      row['weights'][here] = 1
    there = slice(front_at, front_at + before)
    front['front_segments'][there], front['front_slots'][there] = number, slot
    front['front_positions'][there] = np.arange(before)
    at, front_at = at + count, front_at + before
  joined, extra = _joined(vectors, added)
  pack = Pack(row['tokens'], row['segments'], row['positions'], joined, None if joined is None else row['rows'], extra,
              front['front_segments'], front['front_positions'], row['targets'], row['weights'])
  return pack, {'slots': row['slots'], 'places': row['places'], 'front_slots': front['front_slots'],
                'front_places': front['front_positions']}


def _joined(vectors: Sequence[np.ndarray], added: Sequence[np.ndarray | None]) -> tuple[
    np.ndarray | None, np.ndarray | None]:
  """Returns the vectors [M, D] of several prompts, and what layers add to them [L - 1, M, D]; M is a power of two."""
  if not vectors:
    return None, None
  count = sum(map(len, vectors))
  more = (1 << max(3, (count - 1).bit_length())) - count
  joined = np.pad(np.concatenate(vectors), [(0, more), (0, 0)])
  given = next((each for each in added if each is not None), None)
  if given is None:
    return joined, None
  zeros = lambda size: np.zeros((len(given), size, given.shape[-1]), np.float32)
  parts = [zeros(len(own)) if each is None else each for own, each in zip(vectors, added, strict=True)]
  return joined, np.concatenate([*parts, zeros(more)], axis=1)
