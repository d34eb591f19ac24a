"""What a training run takes of each device: what it holds, to the byte, and what compiling its step tells of the rest.

A step is compiled in a process of its own for devices that need not be there: simulated ones, or a topology of TPUs
whose compiler libtpu brings. Nothing is allocated or executed.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from prompt_tuning import trees
from prompt_tuning.data.pipeline import TrainBatches
from prompt_tuning.devices import collectives, meshes, sharding
from prompt_tuning.models import loading
from prompt_tuning.programs import abstract_models as outline
from prompt_tuning.training.step import TrainState, make_step

SIMULATED = 'compile'  # in the place of a topology such as v5e:4x4


@dataclasses.dataclass(frozen=True)
class Step:
  """What a run's compiled step takes of each device.

  Attributes:
    arguments: bytes of what it is given, as the compiler lays it out.
    temporary: bytes that it needs beside, the program itself included where that lies on the device.
    exchanged: kind of collective -> bytes that each device has of them when they are done, all of a step.
  """

  arguments: int
  temporary: int
  exchanged: Mapping[str, int]


def mesh_of(shape: meshes.MeshShape, devices: int, *, there: bool = False) -> AbstractMesh:
  """Returns a mesh of devices that need not be there; `data=-1` is 1 where so many do not fill it.

  Raises:
    ValueError: the devices are `there`, and do not fill it.
  """
  try:
    shape = shape.filled(devices)
  except ValueError:
    if there:
      raise
    shape = dataclasses.replace(shape, data=max(1, shape.data))
  return AbstractMesh(tuple(getattr(shape, axis) for axis in meshes.AXES), meshes.AXES)


def state_of(run: Any, frozen: outline.Outline) -> TrainState:
  """Returns shapes and types of what training changes; `frozen` knows its vocabulary."""
  optimizer = run.optimizer.build(frozen.step)
  return jax.eval_shape(lambda trained: TrainState(jnp.int32(0), trained, optimizer.init(trained), jnp.uint32(0)),
                        frozen.first_values(run.model.method(frozen)))


def batch_of(run: Any, frozen: outline.Outline, task: Any) -> Any:
  """Returns shapes and types of a run's batches; of those that differ in length the longest."""
  layout, data = frozen.layout(run.model.method(frozen).layout()), run.data
  row = next(TrainBatches(task, frozen.vocabulary, layout, lengths=data.task_feature_lengths, batch_size=1,
                          packed=data.pack, split=data.split))
  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((data.batch_size, *x.shape[1:]), x.dtype), row)
  if layout.cached:
    rows, length = batch['context']['tokens'].shape
    layers, heads, width = frozen.prefix_shapes()['decoder']
    text = jax.ShapeDtypeStruct((rows, layers, heads, length, width), frozen.config.dtype)
    batch['context'] = {'keys': text, 'values': text, 'seen': jax.ShapeDtypeStruct((rows, length), np.bool_)}
  return batch


def bytes_of(tree: Any) -> int:
  """Returns the bytes of all arrays of a tree."""
  return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def held(run: Any, frozen: outline.Outline, task: Any, mesh: AbstractMesh) -> dict[str, int]:
  """Returns the bytes that each device holds: the arguments of a step by their kinds."""
  state = state_of(run, frozen)
  trained, rows = bytes_of(state.trained), mesh.shape['data'] * mesh.shape['fsdp']
  return {f'frozen, {frozen.dtype}': sharding.bytes_of_device(frozen.params, mesh), 'trained': trained,
          f'state of {type(run.optimizer).__name__}': bytes_of(state) - trained,
          'batch': 0 if task is None else bytes_of(batch_of(run, frozen, task)) // rows}


def compiled_step(run: Any, mesh: Mesh) -> Step:
  """Compiles the step of a run, an object of `t5x_names`, for the devices of a mesh."""
  frozen, task = outline.read_outline(run), run.task()
  frozen.read_vocabulary(run)
  module = loading.module_of(dataclasses.replace(frozen.config, mesh=mesh if mesh.size > 1 else None))
  function = make_step(module, run.model.method(frozen), run.optimizer.build(frozen.step),
                       loss=run.model.loss(frozen.vocabulary), microbatches=run.trainer_cls().num_microbatches)

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


# --- In a process of its own -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Compiler:
  """Compiles the step of a run in a process of its own.

  Attributes:
    topology: of TPUs, such as v5e:4x4, or `SIMULATED`.
    program: 'train'.
    flags: of `command.parse_flags`, which describe the run.
  """

  topology: str
  program: str
  flags: argparse.Namespace

  @property
  def simulates(self) -> bool:
    """Whether CPUs are simulated."""
    return self.topology == SIMULATED

  def devices(self) -> int | None:
    """Returns how many devices there are; None where as many are simulated as the mesh wants.

    Raises:
      ValueError: there is no topology of that name, or its compiler is not installed.
    """
    return None if self.simulates else _ask({'topology': self.topology})['devices']

  def step(self, mesh: AbstractMesh) -> Step:
    """Compiles the step for a mesh of `mesh_of`.

    Raises:
      ValueError: it cannot be compiled, such as for want of memory; the message is the compiler's.
    """
    question = {'topology': self.topology, 'mesh': dict(mesh.shape), 'program': self.program}
    return Step(**_ask({**question, 'flags': vars(self.flags)})['step'])


def _ask(question: Mapping[str, Any]) -> Any:
  simulated = question['topology'] == SIMULATED
  chosen = {
    'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(math.prod(question['mesh'].values()) if simulated else 1),
    'NPROC': '16', 'JAX_ENABLE_COMPILATION_CACHE': 'false',
    'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # no TPU is touched
    # For CPUs XLA would turn all weights into float32 before the loop over layers.
    'XLA_FLAGS': '--xla_disable_hlo_passes=while-loop-invariant-code-motion' if simulated else ''}
  asked = subprocess.run([sys.executable, '-m', 'prompt_tuning.programs.device_memory'], input=json.dumps(question),
                         text=True, capture_output=True, env={**os.environ, **chosen})
  answer = json.loads(asked.stdout.splitlines()[-1]) if asked.returncode == 0 else {
    'error': asked.stderr.strip()[-2000:]}
  if 'error' in answer:
    raise ValueError(f'The step cannot be compiled for {question["topology"]}: {answer["error"]}')
  return answer


def main() -> None:
  """Answers the question that stands in the standard input."""
  question = json.load(sys.stdin)
  try:
    print(json.dumps(_answer(**question)))
  except (ValueError, OSError, ImportError, RuntimeError) as error:  # XLA's own are RuntimeErrors
    print(json.dumps({'error': str(error)}))


def _answer(topology: str, mesh: Mapping[str, int] | None = None, program: str = '',
            flags: Mapping[str, Any] | None = None) -> dict[str, Any]:
  from prompt_tuning import launch  # imports this file's callers

  devices = jax.devices() if topology == SIMULATED else _devices(topology)
  if mesh is None:
    return {'devices': len(devices)}
  run, _ = launch.build(program, argparse.Namespace(**flags))
  shape = tuple(mesh[axis] for axis in meshes.AXES)
  made = jax.make_mesh(shape, meshes.AXES, axis_types=(AxisType.Auto,) * len(shape), devices=devices)
  return {'step': dataclasses.asdict(compiled_step(run, made))}


def _devices(topology: str) -> Any:
  if importlib.util.find_spec('libtpu') is None:
    raise ImportError("The compiler of TPUs is not installed. pip install 'prompt-tuning[tpu]', which needs no TPU.")
  return topologies.get_topology_desc(platform='tpu', topology_name=topology).devices


if __name__ == '__main__':
  main()
