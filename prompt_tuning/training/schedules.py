"""Learning rate schedules as a product of named factors, as in T5X's configs.

  rate(step) = base · Π factor(step)

  factor          value
  constant        1
  linear_warmup   min(1, step / warmup_steps)
  rsqrt_decay     1 / √max(step, warmup_steps)
  linear_decay    from 1 after warm-up down to 0 at total_steps
  cosine_decay    ½ (1 + cos π t), t from 0 after warm-up to 1 at total_steps
"""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp

from prompt_tuning.names import nearest, require_number
from prompt_tuning.types import Array

Schedule = Callable[[Array], Array]
FACTORS = ('constant', 'linear_warmup', 'rsqrt_decay', 'linear_decay', 'cosine_decay')


def create_schedule(factors: str = 'constant', base_learning_rate: float = 0.3, warmup_steps: int = 1000,
                    total_steps: int | None = None) -> Schedule:
  """Returns the schedule given by `factors`, joined by '*'; the same function for the same arguments.

  Args:
    factors: for example 'constant * linear_warmup * cosine_decay'.
    base_learning_rate: the rate that the factors multiply; it is applied once.
    warmup_steps: steps of linear_warmup, after which the decays start.
    total_steps: the step at which linear_decay and cosine_decay reach 0.

  Raises:
    ValueError: a factor is unknown, or a decay lacks total_steps.
  """
  require_number('base_learning_rate', base_learning_rate, least=0)
  require_number('warmup_steps', warmup_steps, least=0, whole=True)
  require_number('total_steps', total_steps, least=1, whole=True, none=True)
  names = [name.strip() for name in factors.split('*')]
  for name in names:
    if name not in FACTORS:
      raise ValueError(f'The learning rate has an unknown factor {name!r}.{nearest(name, FACTORS)} '
                       f'Use {", ".join(FACTORS)}.')
    if name in ('linear_decay', 'cosine_decay') and (total_steps is None or total_steps <= warmup_steps):
      raise ValueError(f'{name} needs total_steps above warmup_steps, but found total_steps={total_steps} and '
                       f'warmup_steps={warmup_steps}. Increase total_steps=, or decrease warmup_steps=.')
  return _schedule(tuple(names), base_learning_rate, warmup_steps, total_steps)


@functools.lru_cache(maxsize=16)  # so that optimizers of the same schedule are equal, and share a compiled step
def _schedule(names: tuple[str, ...], base_learning_rate: float, warmup_steps: int,
              total_steps: int | None) -> Schedule:
  def rate(step: Array) -> Array:
    step = jnp.asarray(step, jnp.float32)
    value = jnp.asarray(base_learning_rate, jnp.float32)
    for name in names:
      if name == 'linear_warmup':
        value = value * jnp.minimum(1.0, step / max(1, warmup_steps))
      elif name == 'rsqrt_decay':
        value = value / jnp.sqrt(jnp.maximum(step, max(1, warmup_steps)))
      elif name != 'constant':
        passed = jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
        value = value * (1 - passed if name == 'linear_decay' else 0.5 * (1 + jnp.cos(math.pi * passed)))
    return value

  return rate
