"""The memory that a training run takes on each device: what it holds, to the byte, and what compiling its step adds.

`step_compiler` compiles a step for devices that need not exist: simulated ones, or a TPU topology, whose compiler comes
with libtpu. Nothing is allocated or executed.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from prompt_tuning import trees
from prompt_tuning.data.pipeline import TrainBatches
from prompt_tuning.devices import collectives, meshes, sharding
from prompt_tuning.models import loading
from prompt_tuning.programs import abstract_models as outline
from prompt_tuning.runs import objects, training
from prompt_tuning.runs.train_run import TrainRun
from prompt_tuning.training.step import TrainState, make_step


@dataclasses.dataclass(frozen=True)
class Step:
  """The memory that a run's compiled step takes on each device.

  Attributes:
    arguments: bytes of what it is given, as the compiler lays it out.
    temporary: bytes that it needs in addition, including the program itself if that is on the device.
    exchanged: kind of collective -> bytes of its results on each device, summed over a step.
  """

  arguments: int
  temporary: int
  exchanged: Mapping[str, int]


def mesh_of(shape: meshes.MeshShape, devices: int, *, there: bool = False) -> AbstractMesh:
  """Returns a mesh of devices that need not exist; `data=-1` becomes 1 if this number does not fill it.

  Raises:
    ValueError: the devices exist (`there`), and do not fill it.
  """
  try:
    shape = shape.filled(devices)
  except ValueError:
    if there:
      raise
    shape = dataclasses.replace(shape, data=max(1, shape.data))
  return AbstractMesh(tuple(getattr(shape, axis) for axis in meshes.AXES), meshes.AXES)


def state_of(run: TrainRun, frozen: outline.Outline) -> TrainState:
  """Returns shapes and types of what training changes; `frozen` has read its vocabulary."""
  optimizer = objects.optimizer(run, frozen.step).build(frozen.step)
  return jax.eval_shape(lambda trained: TrainState(jnp.int32(0), trained, optimizer.init(trained), jnp.uint32(0)),
                        frozen.first_values(training.method_of(run, frozen)))


def batch_of(run: TrainRun, frozen: outline.Outline, task: Any) -> Any:
  """Returns shapes and types of a run's batches; of the longest, if their lengths differ."""
  layout = frozen.layout(training.method_of(run, frozen).layout())
  row = next(TrainBatches(task, frozen.vocabulary, layout, lengths=training.lengths(run, frozen, task)[0], batch_size=1,
                          packed=run.packed, split=run.split, fields=objects.loss(run, frozen.vocabulary).fields))
  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((run.batch_size, *x.shape[1:]), x.dtype), row)
  if layout.cached:
    rows, length = batch['context']['tokens'].shape
    layers, heads, width = frozen.prefix_shapes()['decoder']
    text = jax.ShapeDtypeStruct((rows, layers, heads, length, width), frozen.config.dtype)
    batch['context'] = {'keys': text, 'values': text, 'seen': jax.ShapeDtypeStruct((rows, length), np.bool_)}
  return batch


def bytes_of(tree: Any) -> int:
  """Returns the bytes of all arrays of a tree."""
  return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def held(run: TrainRun, frozen: outline.Outline, task: Any, mesh: AbstractMesh) -> dict[str, int]:
  """Returns the bytes that each device holds: the arguments of a step by kind."""
  state = state_of(run, frozen)
  trained, rows = bytes_of(state.trained), mesh.shape['data'] * mesh.shape['fsdp']
  return {f'frozen, {frozen.dtype}': sharding.bytes_of_device(frozen.params, mesh), 'trained': trained,
          f'state of {type(objects.optimizer(run, frozen.step)).__name__}': bytes_of(state) - trained,
          'batch': 0 if task is None else bytes_of(batch_of(run, frozen, task)) // rows}


def compiled_step(run: TrainRun, mesh: Mesh) -> Step:
  """Compiles the step of a run for the devices of a mesh."""
  frozen = outline.read_outline(run)
  frozen.read_vocabulary(run)
  task = objects.task(run)
  module = loading.module_of(dataclasses.replace(frozen.config, mesh=mesh if mesh.size > 1 else None))
  transformation = objects.optimizer(run, frozen.step).build(frozen.step)
  function = make_step(module, training.method_of(run, frozen), transformation,
                       loss=objects.loss(run, frozen.vocabulary), microbatches=run.microbatches)

  def placed(tree: Any, split: PartitionSpec) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, split)), tree)

  params = trees.map_named(lambda path, parameter: jax.tree.map(
    lambda x: placed(x, sharding.spec(path, x.shape, mesh)), parameter), frozen.params)
  lowered = jax.jit(function, donate_argnums=1, keep_unused=True).lower(
    params, placed(state_of(run, frozen), PartitionSpec()),
    placed(batch_of(run, frozen, task), PartitionSpec(sharding.RULES['batch'])))
  compiled = lowered.compile()
  memory, exchanged = compiled.memory_analysis(), {}
  for each in collectives.collectives(compiled):
    kind = each.kind if each.times else f'{each.kind}, at least'
    exchanged[kind] = exchanged.get(kind, 0) + each.bytes * (each.times or 1)
  return Step(memory.argument_size_in_bytes, memory.temp_size_in_bytes + memory.output_size_in_bytes
              - memory.alias_size_in_bytes + memory.generated_code_size_in_bytes, exchanged)
