"""One step of training: gradients of the trained tensors only, summed over microbatches."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from prompt_tuning.conditioning import Method
from prompt_tuning.losses import cross_entropy
from prompt_tuning.models.parameters import merge
from prompt_tuning.types import Array, Batch, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """What training changes.

  Attributes:
    step: [] the global step.
    trained: φ.
    optimizer: the optimizer's state, about φ only.
    seed: [] of the dropout. A value, so that a run with another seed needs no other program.
  """

  step: Array
  trained: Params
  optimizer: Any
  seed: Array = dataclasses.field(default_factory=lambda: jnp.uint32(0))


@dataclasses.dataclass(frozen=True)
class Loss:
  """Cross-entropy as T5X sets it.

  Attributes:
    z_loss: pulls the log of the softmax's sum towards 0.
    label_smoothing: share of probability given to all other tokens.
    normalizing_factor: what the sum is divided by: None (nothing), a number, or 'tokens' for the sum of weights.
  """

  z_loss: float = 1e-4
  label_smoothing: float = 0.0
  normalizing_factor: float | str | None = None

  def __post_init__(self) -> None:
    factor = self.normalizing_factor
    if factor not in (None, 'tokens') and (isinstance(factor, str) or factor <= 0):
      raise ValueError(f'The loss normalizing factor is {factor!r}. Give None, a number above 0, or "tokens".')

  def scale(self, weights: Array) -> Array:
    """Returns what the summed loss and gradient are multiplied by, given the sum of weights."""
    if self.normalizing_factor == 'tokens':
      return 1.0 / jnp.maximum(weights, 1.0)
    return jnp.asarray(1.0 / (self.normalizing_factor or 1.0))


Step = Callable[[Params, TrainState, Batch], tuple[TrainState, dict[str, Array]]]


def make_step(module: Any, method: Method, optimizer: optax.GradientTransformation, *, loss: Loss = Loss(),
              microbatches: int | None = None) -> Step:
  """Returns the function `(θ, state, batch) -> (state, sums to report)`; compile it with `jax.jit`.

  Args:
    module: the frozen model; its config's dropout rate is used. A row's mask depends on the seed, the step and the
      row's number in the stream only.
    method: turns φ into a Conditioning.
    optimizer: updates φ.
    loss: what is minimised.
    microbatches: run the batch in so many parts, one after the other; None is 1.
  """

  def summed_loss(trained: Params, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
    conditioning = method.condition(trained)
    keys = None
    if module.config.dropout_rate:
      keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(batch['example_ids'])
    logits = module.apply({'params': merge(params, conditioning.parameters)}, batch, conditioning, dropout=keys)
    decoder = batch['decoder']
    return cross_entropy(logits, decoder['targets'], decoder['loss_weights'], z_loss=loss.z_loss,
                         label_smoothing=loss.label_smoothing)

  def gradients(trained: Params, params: Params, batch: Batch, key: Array) -> tuple[Params, dict[str, Array]]:
    return jax.grad(summed_loss, has_aux=True)(trained, params, batch, key)

  def run(params: Params, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    if microbatches is None or microbatches == 1:
      gradient, sums = gradients(state.trained, params, batch, key)
    else:
      parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), batch)
      first = jax.tree.map(lambda x: x[0], parts)
      shapes = jax.eval_shape(gradients, state.trained, params, first, key)
      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
      add = lambda total, part: (
        jax.tree.map(jnp.add, total, gradients(state.trained, params, part, key)), None)
      (gradient, sums), _ = jax.lax.scan(add, zeros, parts)
    scale = loss.scale(sums['weights'])
    gradient = jax.tree.map(lambda g: g * scale, gradient)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.trained)
    trained = optax.apply_updates(state.trained, updates)
    sums = {**sums, 'scaled_loss': sums['loss'] * scale, 'gradient_norm': optax.tree.norm(gradient),
            'trained_norm': optax.tree.norm(trained)}
    return TrainState(state.step + 1, trained, optimizer_state, state.seed), sums

  return run


def averages(sums: Mapping[str, Any]) -> dict[str, float]:
  """Returns what people read, of a step's sums: loss, its two parts and accuracy for each target token."""
  weights = max(float(sums['weights']), 1.0)
  loss, z_loss = float(sums['loss']), float(sums['z_loss'])
  return {'loss': loss / weights, 'cross_ent_loss': (loss - z_loss) / weights, 'z_loss': z_loss / weights,
          'accuracy': float(sums['correct']) / weights}
