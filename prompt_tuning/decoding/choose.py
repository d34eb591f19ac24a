"""How the next token is chosen: pytrees whose class picks the program, and whose fields are numbers, or one per row.

A `Choose` is called with the logits [B, N, V] of N sequences for each of B rows, and random keys [B, N]; it returns the
ids [B, N] to continue with, and their log-probabilities [B, N] under the distribution that they were drawn from. New
values of its fields compile nothing. One of your own:

  @choice
  class Typical:
    mass: float = 0.9
    num_decodes: int = static(1)

    def __call__(self, logits, keys):
      return drawn(keep_typical(logits, over_rows(self.mass, logits)), keys)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from prompt_tuning.names import require_number
from prompt_tuning.types import Array

_COLDEST = 1e-4  # T5X treats temperatures up to this as zero
_CUT = -1.0e7  # the logit of a token that cannot be drawn
_PART = 512  # logits among which the largest is sought at once
_BITS_OF_ONE = 0x3F800000  # 1.0 as the bit pattern of a float32
T = TypeVar('T')


class Choose(Protocol):
  """See the top of this file."""

  num_decodes: int  # N

  def __call__(self, logits: Array, keys: Array) -> tuple[Array, Array]:
    """Returns ids [B, N] and log-probabilities [B, N]."""


def choice(cls: type[T]) -> type[T]:
  """Makes a class a frozen dataclass and a pytree, whose fields are leaves, except `static` ones."""
  return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


def static(default: Any) -> Any:
  """Returns a field that is part of the program: another value compiles another one."""
  return dataclasses.field(default=default, metadata={'static': True})


@choice
class Greedy:
  """Takes the most likely token.

  Attributes:
    num_decodes: the number of sequences per input; must be 1.
  """

  num_decodes: int = static(1)

  def __post_init__(self) -> None:
    if self.num_decodes != 1:
      raise ValueError(f'Greedy decoding returns one sequence, but got num_decodes={self.num_decodes}. '
                       'Use BeamSearch or Sampling for several.')

  def __call__(self, logits: Array, keys: Array) -> tuple[Array, Array]:
    """Returns the most likely tokens, with log-probability 0: they are certain."""
    del keys
    return likeliest(logits)


@choice
class Sampling:
  """Draws each token from softmax(logits / temperature), cut to likely tokens.

  `minp` comes first, then `topk`, then `topp`. Each field but the last is a number, or one for each row.

  Attributes:
    temperature: at 1e-4 or less, the most likely token is taken.
    topk: draw among the k most likely tokens; 0 means all.
    topp: draw among the most likely tokens that together reach this probability; 0 means all (Holtzman et al. 2019, The
      Curious Case of Neural Text Degeneration).
    minp: draw among tokens of at least this share of the likeliest one's probability; 0 means all.
    num_decodes: the number of sequences per input.
  """

  temperature: float | Array = 1.0
  topk: int | Array = 0
  topp: float | Array = 0.0
  minp: float | Array = 0.0
  num_decodes: int = static(1)

  def __post_init__(self) -> None:
    for name, most, whole in (('temperature', None, False), ('topk', None, True), ('topp', 1, False),
                              ('minp', 1, False)):
      for value in _numbers(getattr(self, name)):
        require_number(name, value, least=0, most=most, whole=whole)
    require_number('num_decodes', self.num_decodes, least=1, whole=True)

  def __call__(self, logits: Array, keys: Array) -> tuple[Array, Array]:
    """Draws tokens; see `Choose`."""
    temperature, topk, topp, minp = (over_rows(value, logits) for value in (
      self.temperature, self.topk, self.topp, self.minp))
    cold = is_certain(temperature)

    def draw(logits: Array) -> tuple[Array, Array]:
      logits = logits / jnp.where(cold, 1.0, temperature)
      for keep, limit in ((keep_minp, minp), (keep_topk, topk), (keep_topp, topp)):
        logits = lax.cond(jnp.any(limit > 0), lambda x, keep=keep, limit=limit: jnp.where(
          limit > 0, keep(x, limit), x), lambda x: x, logits)
      return jax.tree.map(lambda certain, random: jnp.where(cold[..., 0], certain, random),
                          likeliest(logits), drawn(logits, keys))

    return lax.cond(jnp.all(cold), likeliest, draw, logits)


def is_certain(temperature: Any) -> Any:
  """Returns whether the most likely token is taken at a temperature."""
  return temperature <= _COLDEST


def over_rows(value: Any, logits: Array) -> Array:
  """Returns a number, or one for each row, so that it combines with logits [B, N, V]."""
  value = jnp.asarray(value)
  return jnp.broadcast_to(value.reshape(-1, 1, 1), (logits.shape[0], 1, 1))


def likeliest(logits: Array) -> tuple[Array, Array]:
  """Returns the most likely tokens, with log-probability 0: they are certain."""
  return first_of_largest(logits), jnp.zeros(logits.shape[:2], jnp.float32)


def first_of_largest(logits: Array) -> Array:
  """Returns the first index of the largest of logits [..., V]; on CPUs in a tenth of argmax's time.

  That is the first one of the largest in the first part of the logits that has it.
  """
  count = logits.shape[-1]
  size = min(_PART, count)
  padded = jnp.pad(logits, [*[(0, 0)] * (logits.ndim - 1), (0, -count % size)], constant_values=-jnp.inf)
  of_parts = jnp.max(padded.reshape(*logits.shape[:-1], -1, size), axis=-1)
  largest = jnp.max(of_parts, axis=-1, keepdims=True)
  start = jnp.minimum(_first(of_parts == largest) * size, count - size)
  part = jnp.take_along_axis(logits, start[..., None] + jnp.arange(size), axis=-1)
  return start + _first(part == largest)


def _first(found: Array) -> Array:
  """Returns the first index at which `found` [..., N] is True; the last one if it is nowhere."""
  places = lax.broadcasted_iota(jnp.int32, found.shape, found.ndim - 1)
  return jnp.min(jnp.where(found, places, found.shape[-1] - 1), axis=-1)


def drawn(logits: Array, keys: Array) -> tuple[Array, Array]:
  """Returns tokens drawn from softmax(logits) with the keys [B, N], and their log-probabilities."""
  ids = jax.vmap(jax.vmap(jax.random.categorical))(keys, logits).astype(jnp.int32)
  return ids, jnp.take_along_axis(jax.nn.log_softmax(logits), ids[:, :, None], axis=-1)[:, :, 0]


def keep_topk(logits: Array, count: int | Array) -> Array:
  """Returns logits [..., V] with all but the `count` largest cut; ties with the smallest kept logit are kept too.

  The smallest kept logit is found by bisection over bit patterns, see `keep_topp`; so `count` may differ by row.
  """
  bits = lax.bitcast_convert_type(logits.astype(jnp.float32), jnp.int32)
  bits = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # sorts like the numbers
  least = _bisect(lambda bound: jnp.sum(bits >= bound, axis=-1, keepdims=True) >= count,
                  jnp.full((*logits.shape[:-1], 1), jnp.iinfo(jnp.int32).min), jnp.iinfo(jnp.int32).max)
  return jnp.where(bits >= least, logits, _CUT)


def keep_topp(logits: Array, mass: float | Array) -> Array:
  """Returns logits [..., V] cut to the smallest set of most likely tokens whose probabilities reach `mass`.

  The smallest kept probability is found by bisection over the bit patterns of [0, 1], which sort like the numbers.
  This is exact after 30 sums; sorting 32 rows of 250,000 tokens takes 20 times as long on a CPU.
  """
  probabilities = jax.nn.softmax(logits)
  bits = lax.bitcast_convert_type(probabilities, jnp.int32)
  least = _bisect(lambda bound: jnp.sum(probabilities, axis=-1, keepdims=True, where=bits >= bound) >= mass,
                  jnp.zeros((*logits.shape[:-1], 1), jnp.int32), _BITS_OF_ONE + 1)
  return jnp.where(bits >= least, logits, _CUT)


def keep_minp(logits: Array, share: float | Array) -> Array:
  """Returns logits [..., V] cut to tokens of at least a share of the likeliest one's probability."""
  least = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(share)
  return jnp.where(logits >= least, logits, _CUT)


def _bisect(enough: Callable[[Array], Array], low: Array, high: int) -> Array:
  """Returns the largest int32 bound [..., 1] from `low` to below `high` that keeps enough; `low` does."""

  def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = bounds
    middle = (low & high) + ((low ^ high) >> 1)  # the mean, which their sum would overflow
    reached = enough(middle)
    return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

  return lax.fori_loop(0, 32, halve, (low, jnp.full_like(low, high)))[0]


def _numbers(value: Any) -> list[Any]:
  """Returns the numbers of a field to check; none of what a compiled function or a pytree puts there."""
  if isinstance(value, (list, tuple, np.ndarray)):
    return np.asarray(value).reshape(-1).tolist()
  return [value] if isinstance(value, (int, float, str)) else []
