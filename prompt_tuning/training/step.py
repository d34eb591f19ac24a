"""One training step: gradients of only the trained tensors, summed over microbatches."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from prompt_tuning import trees
from prompt_tuning.devices import sharding
from prompt_tuning.losses import Loss
from prompt_tuning.models.compiled import hidden_states
from prompt_tuning.rows.conditioning import Context
from prompt_tuning.rows.layouts import target_rows
from prompt_tuning.training.optimizers import Optimizer, build
from prompt_tuning.tuning.method import Method
from prompt_tuning.types import Array, Batch, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """The values that training changes.

  Attributes:
    step: [] the global step.
    trained: φ.
    optimizer: the optimizer's state, only for φ.
    seed: [] of the dropout; an array, so that runs with different seeds share a program.
  """

  step: Array
  trained: Params
  optimizer: Any
  seed: Array = dataclasses.field(default_factory=lambda: jnp.uint32(0))


Step = Callable[[Params, TrainState, Batch], tuple[TrainState, dict[str, Array]]]


def make_step(module: Any, method: Method, optimizer: optax.GradientTransformation, *, loss: Loss = Loss(),
              microbatches: int | None = None) -> Step:
  """Returns the function `(θ, state, batch) -> (state, sums to report)`; compile it with `jax.jit`.

  Args:
    module: the frozen model; its config's dropout rate is used. A row's mask depends only on the seed, the step and the
      row's number in the stream.
    method: turns φ into a Conditioning.
    optimizer: updates φ.
    loss: the loss to minimise.
    microbatches: the number of parts that the batch is run in, one after the other; None means 1.

  Raises:
    ValueError: the loss compares rows that microbatches would separate.
  """
  loss.require_whole_batches(microbatches)
  facts = module.facts()

  def summed_loss(trained: Params, params: Params, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
    conditioning = method.condition(trained, facts).behind(Context.of_batch(batch))
    keys = None
    if module.config.dropout_rate:
      keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(batch['example_ids'])
    x, project = hidden_states(module, params, batch, conditioning, dropout=keys)
    value, sums = loss(x, batch, project)
    return value, {**sums, **{name: jnp.sum(counts) for name, counts in counts_of_rows(batch).items()}}

  sums_of = gradient_sums(summed_loss, microbatches)
  if not loss.over_pairs:  # else the rows of all devices are compared
    sums_of = sharding.sum_over_rows(sums_of, module.config.mesh)

  def run(params: Params, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    gradient, sums = sums_of(params, (state.trained, step_key(state)), batch)
    return sharding.whole(module.config.mesh, updated(state, gradient, sums, method, optimizer, loss))

  return run


def step_key(state: TrainState) -> Array:
  """Returns the key of a step's dropout."""
  return jax.random.fold_in(jax.random.key(state.seed), state.step)


def gradient_sums(summed_loss: Callable[..., tuple[Array, dict[str, Array]]], microbatches: int | None) -> Callable[
    [Params, tuple[Params, Array], Batch], tuple[Params, dict[str, Array]]]:
  """Returns `(θ, (φ, key), batch) -> sums over rows` of the gradient and of the reported values.

  Args:
    summed_loss: `(φ, θ, batch, key=key) -> (sum, sums to report)`.
    microbatches: the number of parts that the batch is run in; None means 1.
  """
  def sums_of(params: Params, shared: tuple[Params, Array], batch: Batch) -> tuple[Params, dict[str, Array]]:
    trained, key = shared
    gradients = functools.partial(jax.grad(summed_loss, has_aux=True), trained, params, key=key)
    if microbatches is None or microbatches == 1:
      return gradients(batch)
    parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), batch)
    shapes = jax.eval_shape(gradients, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    add = lambda total, part: (jax.tree.map(jnp.add, total, gradients(part)), None)
    return jax.lax.scan(add, zeros, parts)[0]

  return sums_of


def updated(state: TrainState, gradient: Params, sums: Mapping[str, Array], method: Method,
            optimizer: optax.GradientTransformation, loss: Loss) -> tuple[TrainState, dict[str, Array]]:
  """Returns the state after a step, and the sums to report, given the step's sums over rows."""
  scale = loss.scale(sums['weights'])
  gradient, more = jax.tree.map(lambda g: g * scale, gradient), {}
  if method.penalty(state.trained) is not None:
    # Once per step, independent of the number of microbatches and of the scale.
    more['penalty'], of_penalty = jax.value_and_grad(method.penalty)(state.trained)
    gradient = jax.tree.map(jnp.add, gradient, of_penalty)
  updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.trained)
  updates = trees.map_named(lambda name, x: x if method.rate_of(name) == 1 else x * method.rate_of(name), updates)
  trained = method.keep(state.trained, optax.apply_updates(state.trained, updates))
  sums = {**sums, **more, 'scaled_loss': sums['loss'] * scale, 'gradient_norm': optax.tree.norm(gradient),
          'trained_norm': optax.tree.norm(trained)}
  return TrainState(state.step + 1, trained, optimizer_state, state.seed), sums


def jitted_step(module: Any, method: Method, optimizer: Optimizer | optax.GradientTransformation, start_step: int, *,
                loss: Loss = Loss(), microbatches: int | None = None) -> Any:
  """Returns the jitted step of `make_step`; equal arguments return the same function, so that runs share a program.

  Arguments that cannot be hashed return a new function.

  Args:
    module: the frozen model.
    method: turns φ into a Conditioning.
    optimizer: updates φ.
    start_step: the step that the optimizer counts from.
    loss: the loss to minimise.
    microbatches: the number of parts that the batch is run in.
  """
  arguments = (module, method, optimizer, start_step, loss, microbatches)
  try:
    hash(arguments)
  except TypeError:
    return _jitted_step.__wrapped__(*arguments)
  return _jitted_step(*arguments)


@functools.lru_cache(maxsize=8)
def _jitted_step(module: Any, method: Method, optimizer: Optimizer | optax.GradientTransformation, start_step: int,
                 loss: Loss, microbatches: int | None) -> Any:
  step = make_step(module, method, build(optimizer, start_step), loss=loss, microbatches=microbatches)
  return jax.jit(step, donate_argnums=1)


def counts_of_rows(batch: Batch) -> dict[str, Array]:
  """Returns [B] for each row, the number of its examples, and of its tokens, without padding and prompt."""
  tokens = 0
  for layout in (batch[stack] for stack in ('encoder', 'decoder') if stack in batch):
    real = layout['segments'] > 0
    tokens += jnp.sum(real & (layout['prompt_slots'] < 0) if 'prompt_slots' in layout else real, axis=1)
  return {'examples': jnp.max(target_rows(batch)['segments'], axis=1), 'tokens': tokens}
