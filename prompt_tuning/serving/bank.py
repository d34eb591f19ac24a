"""The caches of answers that run together, and the compiled programs that read and write them.

A bank has `rows` slots, and `places` in each cache of a slot. Both grow and shrink through a few sizes, by copying: a
decoding step costs what its largest slot costs, so answers of very different lengths are in different banks.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from prompt_tuning.decoding.cache import row_keys
from prompt_tuning.decoding.samplers import Greedy, Sampling
from prompt_tuning.devices import sharding
from prompt_tuning.models.apart import Apart
from prompt_tuning.models.fronts import empty_state
from prompt_tuning.models.packed import Caches, KeysValues, Newest, cache_shapes, next_tokens, places_in, taken, written
from prompt_tuning.models.scaling import Scalings
from prompt_tuning.models.stack import Own
from prompt_tuning.models.token_scores import TokenScores, scores_of
from prompt_tuning.rows.conditioning import State
from prompt_tuning.types import Array, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draw:
  """How the next token of each slot is chosen; arrays [B].

  Attributes:
    sampling: `Greedy` if no slot draws a token; the fields of a `Sampling` have a value for each slot.
    keys: [B, 2] of the answers' noise, see `key_of`.
    counts: the tokens that each has generated.
    active: whether the slot holds an answer that still grows.
  """

  sampling: Greedy | Sampling
  keys: Array
  counts: Array
  active: Array


class Bank:
  """See the top of this file.

  Args:
    model: the frozen model.
    rows: the number of slots.
    places: name of each cache -> places of a slot.
  """

  def __init__(self, model: Any, rows: int, places: Mapping[str, int]):
    self._model = model
    self.rows, self.places = rows, dict(places)
    self.caches = _empty(model, rows, places)

  def resize(self, kept: Sequence[int], rows: int, places: Mapping[str, int]) -> None:
    """Changes the number of slots and of their places; the slots `kept` become the first ones, in their order."""
    order = np.resize(np.asarray([*kept, 0], np.int32), rows) if len(kept) < rows else np.asarray(kept, np.int32)
    self.caches = _resized(self._model.module, self.caches, order, tuple(sorted(places.items())))
    self.rows, self.places = rows, dict(places)

  def write(self, name: str, own: KeysValues, slots: np.ndarray, places: np.ndarray) -> None:
    """Puts keys and values [L, 1, kv_heads, N, K] at places [N] of slots [N]; those outside are not written."""
    self.caches = {**self.caches, name: _put(self.caches[name], own, slots, places)}

  def put_state(self, state: State | None, slot: int) -> None:
    """Gives a slot the state [L, 1, ...] of the delta layers; None is that before the first position."""
    if 'state' in self.caches:
      state = empty_state(self._model.module.config, 1) if state is None else state
      self.caches = {**self.caches, 'state': _put_state(self.caches['state'], state, slot)}

  def state_of(self, slot: int) -> State | None:
    """Returns the state [L, 1, ...] of a slot, if the model has delta layers."""
    return self.caches['state'].rows(np.asarray([slot])) if 'state' in self.caches else None

  def take(self, name: str, slots: np.ndarray, places: np.ndarray) -> KeysValues:
    """Returns the keys and values [L, 1, kv_heads, T, K] at places [T] of slots [T]."""
    return _take(self.caches[name], slots, places)

  def step(self, newest: Newest, draw: Draw, top: int | None,
           scaling: Scalings | None = None) -> tuple[np.ndarray, TokenScores | None]:
    """Generates a token in each slot; returns the ids [B], and with `top` their scores [B]."""
    logits, own = _step(self._model.module, self._model.layers, self.caches, newest, scaling)
    ids, scores = _choose(self._model.module, logits, draw, top=top)  # first, so that nobody waits for what is written
    self.caches = {**self.caches, 'self': _grown(self.caches['self'], own[:2], newest.lengths['self'], draw.active)}
    if 'state' in self.caches:
      self.caches = {**self.caches, 'state': _advanced(self.caches['state'], own[2], draw.active)}
    return np.asarray(ids), None if scores is None else jax.tree.map(np.asarray, scores)


def size_of(model: Any, rows: int, places: Mapping[str, int]) -> int:
  """Returns the bytes of the caches of this many slots with these places."""
  config = model.module.config
  width = jnp.dtype(config.dtype).itemsize
  state = jax.eval_shape(lambda: empty_state(config, rows)) if getattr(config, 'delta', None) else ()
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) + sum(
    2 * layers * heads * head_dim * width * rows * places[name]
    for name, (layers, heads, head_dim) in cache_shapes(model.module).items())


def _empty(model: Any, rows: int, places: Mapping[str, int]) -> Caches:
  config, caches = model.module.config, {}
  split = any(isinstance(leaf, Apart) for leaf in jax.tree.leaves(
    model.layers, is_leaf=lambda leaf: isinstance(leaf, Apart)))
  for name, (layers, heads, head_dim) in cache_shapes(model.module).items():
    shapes = (rows, heads, head_dim, places[name]), (rows, heads, places[name], head_dim)
    zeros = lambda *shape: jnp.zeros(shape, config.dtype)
    if split:
      caches[name] = tuple(Apart(tuple(zeros(*shape) for _ in range(layers))) for shape in shapes)
    else:
      caches[name] = tuple(sharding.constrain(zeros(layers, *shape), config.mesh, None, None, 'heads')
                           for shape in shapes)
  return {**caches, 'state': empty_state(config, rows)} if getattr(config, 'delta', None) else caches


@functools.partial(jax.jit, static_argnames=('module', 'places'))
def _resized(module: nn.Module, caches: Caches, order: Array, places: tuple[tuple[str, int], ...]) -> Caches:
  def change(array: Array, count: int, axis: int) -> Array:
    array = jnp.take(array, order, axis=-4)
    array = jax.lax.slice_in_dim(array, 0, min(count, array.shape[axis]), axis=axis)
    missing = [(0, 0)] * array.ndim
    missing[axis] = (0, count - array.shape[axis])
    return jnp.pad(array, missing)

  changed = {name: tuple(jax.tree.map(functools.partial(change, count=count, axis=axis), part)
                         for part, axis in zip(caches[name], (-1, -2), strict=True)) for name, count in places}
  return {**changed, 'state': caches['state'].rows(order)} if 'state' in caches else changed


@functools.partial(jax.jit, donate_argnames='cache')
def _put(cache: tuple[Any, Any], own: KeysValues, slots: Array, places: Array) -> tuple[Any, Any]:
  return written(cache, tuple(part[:, 0].swapaxes(1, 2) for part in own), slots, places)


@functools.partial(jax.jit, donate_argnames='states')
def _put_state(states: State, state: State, slot: Array) -> State:
  return jax.tree.map(lambda all_, one: all_.at[:, slot].set(one[:, 0]), states, state)


@functools.partial(jax.jit, donate_argnames='states')
def _advanced(states: State, own: State, active: Array) -> State:
  """Returns the states after a token of the active slots."""
  chosen = lambda new, old: jnp.where(active.reshape(1, -1, *(1,) * (new.ndim - 2)), new, old)
  return jax.tree.map(chosen, own, states)


@jax.jit
def _take(cache: tuple[Any, Any], slots: Array, places: Array) -> KeysValues:
  return taken(cache, slots, places)


@functools.partial(jax.jit, static_argnames='module')
def _step(module: nn.Module, layers: Params, caches: Caches, newest: Newest,
          scaling: Scalings | None) -> tuple[Array, Own]:
  return next_tokens(module, layers, newest, caches, scaling)


# A program of its own: XLA copies some caches of a program that reads them and then writes to them.
@functools.partial(jax.jit, donate_argnames='cache')
def _grown(cache: tuple[Any, Any], own: KeysValues, lengths: Array, active: Array) -> tuple[Any, Any]:
  places = jnp.where(active, lengths, places_in(cache))
  return written(cache, tuple(part[:, :, :, 0] for part in own), jnp.arange(len(places)), places)


@functools.partial(jax.jit, static_argnames=('module', 'top'))
def _choose(module: nn.Module, logits: Array, draw: Draw, *, top: int | None) -> tuple[Array, TokenScores | None]:
  keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(draw.keys), draw.counts)
  ids, _ = draw.sampling(logits[:, None], keys[:, None])
  scores = None if top is None else jax.tree.map(lambda array: array[:, 0], scores_of(
    logits[:, None], ids, top=max(top, 1)))
  return sharding.whole(module.config.mesh, (ids[:, 0], scores))


def key_of(seed: int, number: int) -> np.ndarray:
  """Returns the random key [2] of an answer: that of `predict` with a seed for each row, and several answers."""
  return np.asarray(_key_of(np.uint32(seed), np.uint32(number)))


@jax.jit
def _key_of(seed: Array, number: Array) -> Array:
  of_row = jax.random.fold_in(jax.random.key(seed), 0)
  return jax.random.key_data(row_keys(of_row, number[None])[0])
