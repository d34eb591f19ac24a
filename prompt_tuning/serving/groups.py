"""Answers that run together in one bank: their slots, the packs of their inputs, and their decoding steps."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from prompt_tuning.models import packed
from prompt_tuning.serving import bank as banks
from prompt_tuning.serving.bank import Bank
from prompt_tuning.serving.requests import Piece
from prompt_tuning.serving.running import Running, draw_of, newest_of, pack_of
from prompt_tuning.serving.scales import ScalesOfSlots

PACK = 128  # positions of inputs that are read at once: products are as fast as with more, and answers wait less
_SHRINK = 16  # decoding steps with fewer or shorter answers, after which a bank gets smaller
_NOWHERE = 1 << 30  # a place outside every cache


class Group:
  """See the top of this file.

  Args:
    model: the frozen model.
    slots: the most answers.

  Attributes:
    members: the answer of each slot of the bank, or None.
  """

  def __init__(self, model: Any, slots: int):
    self._model, self._slots = model, slots
    self._names = tuple(packed.cache_shapes(model.module))
    self._excess = 0  # decoding steps for which the bank has been larger than needed
    self._scales = ScalesOfSlots(model.module.config.mesh)
    self.bank: Bank | None = None
    self.members: list[Running | None] = []

  @property
  def running(self) -> list[Running]:
    """The answers."""
    return [running for running in self.members if running is not None]

  @property
  def count(self) -> int:
    """The number of answers."""
    return len(self.running)

  @property
  def unread(self) -> bool:
    """Whether an input has not been read to its end."""
    return any(not running.is_read for running in self.running)

  @property
  def decodes(self) -> bool:
    """Whether an input has been read, so that tokens can be generated."""
    return any(running.is_read for running in self.running)

  @property
  def size(self) -> int:
    """Bytes of the caches."""
    return 0 if self.bank is None else banks.size_of(self._model, self.bank.rows, self.bank.places)

  def shape(self, *added: Running, expected: int = 0) -> tuple[int, dict[str, int]]:
    """Returns the rows and places of a bank for the answers here and further ones, until they end."""
    return self._shape('needs', [*self.running, *added], expected)

  def _shape(self, needs: str, members: Sequence[Running], expected: int = 0) -> tuple[int, dict[str, int]]:
    count = min(self._slots, len(members) + expected)
    rows = next(size for size in row_sizes(self._slots) if size >= count)
    return rows, self._places(needs, members, rows)

  def _places(self, needs: str, members: Sequence[Running], rows: int) -> dict[str, int]:
    return places_of({name: max(getattr(running, needs)[name] for running in members) for name in self._names}, rows)

  def add(self, running: Running, expected: int = 0) -> None:
    """Gives an answer a slot; this many more are expected."""
    members = [*self.running, running]
    rows, places = self._shape('soon', members, expected)
    if self.bank is None:
      self.bank, self.members = Bank(self._model, rows, places), [None] * rows
    self._grow('soon', members, self.bank.rows if None in self.members else rows)
    self.members[self.members.index(None)] = running

  def put_prompt(self, running: Running, before: Mapping[str, Any]) -> None:
    """Copies the keys and values of an answer's prompt into its slot, and the state after it."""
    slot = self.members.index(running)
    self.bank.put_state(before.get('state'), slot)
    for name, own in before.items():
      if name == 'state':
        continue
      padded = np.arange(own[0].shape[3], dtype=np.int32)
      places = np.where(padded < running.loaded.lengths[name], padded, _NOWHERE).astype(np.int32)
      self.bank.write(name, own, np.full(len(padded), slot, np.int32), places)

  def remove(self, running: Running) -> None:
    """Frees an answer's slot."""
    self.members[self.members.index(running)] = None

  def _grow(self, needs: str, members: Sequence[Running], rows: int) -> None:
    """Gives the bank this many rows, and the places that answers need, if it has fewer."""
    places = self._places(needs, members, rows)
    places = {name: max(size, places[name]) for name, size in self.bank.places.items()}
    if (rows, places) != (self.bank.rows, self.bank.places):
      self._resize(rows, places)

  def _resize(self, rows: int, places: Mapping[str, int]) -> None:
    kept = [slot for slot, running in enumerate(self.members) if running is not None]
    self.members = [*self.running, *[None] * (rows - len(kept))]
    self.bank.resize(kept, rows, places)
    self._excess = 0

  def read(self) -> list[Running]:
    """Reads a pack of inputs; returns the answers whose inputs are then read."""
    self._grow('now', self.running, self.bank.rows)
    members = list(self._next_pack())
    whole = self._model.prompted == 'encoder'
    source, target = ('encoder', 'memory') if whole else ('self', 'self')
    length = pack_length(sum(count for _, _, count in members))
    before = sum(running.filled.get(source, 0) for running, _, _ in members)
    pack, where = pack_of(members, length, front_length(before))
    front = self.bank.take(source, where['front_slots'], where['front_places']) if before else None
    top = max((running.top or 1 for running, _, _ in members if running.answer.request.echo), default=None)
    scaling = self._scales.of(self.members, where['slots'][None])
    (keys, values, *state), scores = packed.read_pack(
      self._model.module, self._model.layers, self._model.params, pack, front, scaling,
      self.bank.state_of(members[0][1]), top=top)
    self.bank.write(target, (keys, values), where['slots'], where['places'])
    if state:
      self.bank.put_state(state[0], members[0][1])
    scores, at = jax.tree.map(np.asarray, scores), 0
    for running, _, count in members:
      running.read += count
      running.filled[target] = running.filled.get(target, 0) + count
      if running.answer.request.echo:
        running.take_scores(scores, slice(at, at + count))
      at += count
    return [running for running, _, _ in members if running.is_read]

  def _next_pack(self) -> Iterator[tuple[Running, int, int]]:
    """Yields answers, their slots, and how many positions of each are read next."""
    room, whole = PACK, self._model.prompted == 'encoder'  # an encoder reads an input at once
    alone = getattr(self._model.module.config, 'delta', None)  # a pack goes on from one state
    for slot, running in enumerate(self.members):
      if running is None or running.is_read or room <= 0 or (alone and room < PACK):
        continue
      count = running.to_read - running.read
      if not whole:
        count = min(count, room)
      elif count > room and room < PACK:
        continue
      yield running, slot, count
      room -= count

  def decode(self) -> list[tuple[Running, Piece]]:
    """Generates a token for each answer whose input is read."""
    self._grow('now', self.running, self.bank.rows)
    rows, places = self._shape('soon', self.running)
    self._excess = self._excess + 1 if (rows, places) != (self.bank.rows, self.bank.places) else 0
    if self._excess > _SHRINK:
      self._resize(rows, places)
    own = [(slot, running) for slot, running in enumerate(self.members) if running is not None and running.is_read]
    top = max((running.top for _, running in own if running.top is not None), default=None)
    scaling = self._scales.of(self.members, np.arange(len(self.members))[:, None])
    ids, scores = self.bank.step(newest_of(self.members, self._model.width, self._names), draw_of(self.members), top,
                                 scaling)
    columns = () if scores is None else (scores.log_probs, scores.top_ids, scores.top_log_probs)
    return [(running, running.add(int(ids[slot]), *(column[slot] for column in columns))) for slot, running in own]


def class_of(needs: Mapping[str, int]) -> int:
  """Returns the number of the group of answers with these needs: their lengths differ by up to a factor of four."""
  return max(0, (max(needs.values()) - 1).bit_length() - 7) // 2


def row_sizes(slots: int) -> list[int]:
  """Returns the numbers of rows that banks have: few, for few programs. From 8 on, further rows cost a CPU little."""
  return [*(size for size in (1, *(8 << 2 * power for power in range(10))) if size < slots), slots]


def places_of(needs: Mapping[str, int], rows: int) -> dict[str, int]:
  """Returns the places of a bank for these needs: with few rows, attention costs little, so there are fewer sizes."""
  return {name: count and _next_size(count, 256, 4) if rows <= 8 else count and min(
    _next_size(count, 128, 2), _next_size(count, 192, 2)) for name, count in needs.items()}


def pack_length(count: int) -> int:
  """Returns N of a pack with this many positions."""
  return _next_size(count, 32, 2)


def front_length(count: int) -> int:
  """Returns T of a pack whose inputs come after this many positions."""
  return count and _next_size(count, 128, 4)


def _next_size(count: int, size: int, factor: int) -> int:
  while size < count:
    size *= factor
  return size


def warm_up(model: Any, slots: int) -> None:
  """Compiles the programs for answers of usual lengths."""
  names, whole = tuple(packed.cache_shapes(model.module)), model.prompted == 'encoder'
  source, target = ('encoder', 'memory') if whole else ('self', 'self')
  fronts = (0,) if whole else (0, front_length(1))
  for rows in row_sizes(slots):
    bank = Bank(model, rows, places_of({name: 0 if name == 'encoder' else 150 for name in names}, rows))
    for greedy in (True, False):
      bank.step(newest_of([None] * rows, model.width, names), draw_of([None] * rows, greedy=greedy), None)
    for length, before in itertools.product((32, 64, PACK), fronts):
      pack, where = pack_of([], length, before)
      front = bank.take(source, where['front_slots'], where['front_places']) if before else None
      (keys, values, *state), _ = packed.read_pack(model.module, model.layers, model.params, pack, front, None,
                                                   bank.state_of(0))
      bank.write(target, (keys, values), where['slots'], where['places'])
      bank.put_state(state[0] if state else None, 0)
