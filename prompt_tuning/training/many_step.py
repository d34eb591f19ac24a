"""One training step of many runs that share a frozen model: one backward pass, and an update of each run's own tensors.

The batch is the rows of all runs, one run after the other; `prompt_ids` says whose a row is. No row sees another, so
the gradient of the sum of all losses is, in each run's tensors, the gradient of that run alone.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from prompt_tuning.devices import sharding
from prompt_tuning.losses import Loss
from prompt_tuning.models.compiled import hidden_states
from prompt_tuning.models.row_prompts import joined, part_of
from prompt_tuning.rows.conditioning import Conditioning, Facts
from prompt_tuning.training.step import TrainState, counts_of_rows, gradient_sums, step_key, updated
from prompt_tuning.tuning.method import Method
from prompt_tuning.types import Array, Batch, Params

States = tuple[TrainState, ...]
ManyStep = Callable[[Params, States, Batch], tuple[States, tuple[dict[str, Array], ...]]]


def make_many_step(module: Any, methods: Sequence[Method], optimizers: Sequence[optax.GradientTransformation], *,
                   batch_sizes: Sequence[int], loss: Loss = Loss(), microbatches: int | None = None) -> ManyStep:
  """Returns the function `(θ, states, batch) -> (states, sums to report)` of N runs; compile it with `jax.jit`.

  Each run's state becomes what `step.make_step` makes of it, up to rounding. A row's dropout depends only on its run's
  seed and step, and on the row's number in the run's stream.

  Args:
    module: the frozen model.
    methods: of each run.
    optimizers: likewise.
    batch_sizes: rows of each run, which stand one after the other in the batch.
    loss: the loss to minimise, the same for all.
    microbatches: the number of parts that the batch is run in, one after the other; None means 1.
  """
  facts, count = module.facts(), len(methods)

  def summed_loss(trained: tuple[Params, ...], params: Params, batch: Batch,
                  key: Array) -> tuple[Array, dict[str, Array]]:
    owners = batch['prompt_ids'][:, 0]  # [B]
    keys = None
    if module.config.dropout_rate:
      keys = jax.vmap(jax.random.fold_in)(key[owners], batch['example_ids'])
    conditioning, present = together(methods, trained, facts), _owners_of_part(batch_sizes, len(owners))
    if present < count:
      conditioning = part_of(conditioning, owners[0], present)
      batch = {**batch, 'prompt_ids': batch['prompt_ids'] - owners[0]}
    x, project = hidden_states(module, params, batch, conditioning, dropout=keys)
    value, sums = loss.of_rows(x, batch, project)
    sums = {**sums, **counts_of_rows(batch)}
    return jnp.sum(value), {name: jax.ops.segment_sum(each, owners, count) for name, each in sums.items()}

  sums_of = sharding.sum_over_rows(gradient_sums(summed_loss, microbatches), module.config.mesh)

  def run(params: Params, states: States, batch: Batch) -> tuple[States, tuple[dict[str, Array], ...]]:
    key = jnp.stack([step_key(state) for state in states])
    gradients, sums = sums_of(params, (tuple(state.trained for state in states), key), batch)
    after = tuple(
      updated(state, gradient, {name: each[i] for name, each in sums.items()}, method, optimizer, loss)
      for i, (state, gradient, method, optimizer) in enumerate(zip(states, gradients, methods, optimizers,
                                                                   strict=True)))
    return sharding.whole(module.config.mesh, tuple(zip(*after, strict=True)))

  return run


def together(methods: Sequence[Method], trained: Sequence[Params], facts: Facts) -> Conditioning:
  """Returns the conditioning of N runs, each field padded to its longest; without `lengths` where all are as long."""
  found = [method.condition(each, facts) for method, each in zip(methods, trained, strict=True)]
  conditioning = joined(found)

  def of_stack(stack: str) -> Any:
    given = getattr(conditioning, stack)
    differ = {name: each for name, each in given.lengths.items()
              if len({getattr(one, stack).longest(name) for one in found}) > 1}
    return dataclasses.replace(given, lengths=differ)

  return dataclasses.replace(conditioning, encoder=of_stack('encoder'), decoder=of_stack('decoder'))


def parts(batch_sizes: Sequence[int], microbatches: int | None, at_once: int | None, mesh: Any) -> int | None:
  """Returns in how many parts a step is run.

  Args:
    batch_sizes: rows of each run.
    microbatches: the number of parts of each run's batch.
    at_once: how many runs' rows are run at once, at most; None means 1 on CPUs, where more rows at once take more
      memory and no less time, and all elsewhere. Only without a mesh, and if all have as many rows.
    mesh: the devices, or None.
  """
  count = len(batch_sizes)
  if len(set(batch_sizes)) > 1 or mesh is not None:
    return microbatches
  most = at_once or (1 if jax.default_backend() == 'cpu' else count)
  together = max(size for size in range(1, count + 1) if count % size == 0 and size <= most)
  return (microbatches or 1) * (count // together)


def _owners_of_part(batch_sizes: Sequence[int], rows: int) -> int:
  """Returns how many runs may own some of `rows` consecutive rows, of which the batch has a whole number."""
  size = batch_sizes[0]
  if set(batch_sizes) != {size} or (rows % size and size % rows):
    return len(batch_sizes)
  return max(1, rows // size)
