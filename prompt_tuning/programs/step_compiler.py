"""Compiles the step of a run in a separate process, for devices that need not exist.

The question is JSON on the process's standard input, the answer JSON on its standard output.
"""

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
from jax.experimental import topologies
from jax.sharding import AbstractMesh, AxisType

from prompt_tuning.devices import meshes
from prompt_tuning.programs.device_memory import Step, compiled_step
from prompt_tuning.runs.train_run import TrainRun

SIMULATED = 'compile'  # instead of a topology such as v5e:4x4


@dataclasses.dataclass(frozen=True)
class Compiler:
  """Compiles the step of a run in a separate process.

  Attributes:
    topology: of TPUs, such as v5e:4x4, or `SIMULATED`.
    run: whose step is compiled.
  """

  topology: str
  run: TrainRun

  @property
  def simulates(self) -> bool:
    """Whether CPUs are simulated."""
    return self.topology == SIMULATED

  def devices(self) -> int | None:
    """Returns how many devices there are; None if as many are simulated as the mesh needs.

    Raises:
      ValueError: there is no topology of that name, or its compiler is not installed.
    """
    return None if self.simulates else _ask({'topology': self.topology})['devices']

  def step(self, mesh: AbstractMesh) -> Step:
    """Compiles the step for a mesh of `mesh_of`.

    Raises:
      ValueError: it cannot be compiled, for example for lack of memory; the message is the compiler's.
    """
    question = {'topology': self.topology, 'mesh': dict(mesh.shape)}
    return Step(**_ask({**question, 'run': self.run.given()})['step'])


def _ask(question: Mapping[str, Any]) -> Any:
  simulated = question['topology'] == SIMULATED
  chosen = {
    'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(math.prod(question['mesh'].values()) if simulated else 1),
    'NPROC': '16', 'JAX_ENABLE_COMPILATION_CACHE': 'false',
    'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # no TPU is touched
    # For CPUs, XLA would convert all weights to float32 before the loop over layers.
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_disable_hlo_passes=while-loop-invariant-code-motion'
                 if simulated else ''}
  asked = subprocess.run([sys.executable, '-m', 'prompt_tuning.programs.step_compiler'], input=json.dumps(question),
                         text=True, capture_output=True, env={**os.environ, **chosen})
  answer = json.loads(asked.stdout.splitlines()[-1]) if asked.returncode == 0 else {
    'error': asked.stderr.strip()[-2000:]}
  if 'error' in answer:
    raise ValueError(f'The step cannot be compiled for {question["topology"]}: {answer["error"]}')
  return answer


def main() -> None:
  """Answers the question on the standard input."""
  question = json.load(sys.stdin)
  try:
    print(json.dumps(_answer(**question)))
  except (ValueError, OSError, ImportError, RuntimeError) as error:  # XLA's own are RuntimeErrors
    print(json.dumps({'error': str(error)}))


def _answer(topology: str, mesh: Mapping[str, int] | None = None,
            run: Mapping[str, Any] | None = None) -> dict[str, Any]:
  devices = jax.devices() if topology == SIMULATED else _devices(topology)
  if mesh is None:
    return {'devices': len(devices)}
  shape = tuple(mesh[axis] for axis in meshes.AXES)
  made = jax.make_mesh(shape, meshes.AXES, axis_types=(AxisType.Auto,) * len(shape), devices=devices)
  return {'step': dataclasses.asdict(compiled_step(TrainRun.of(run), made))}


def _devices(topology: str) -> Any:
  if importlib.util.find_spec('libtpu') is None:
    raise ImportError("The TPU compiler is not installed: `pip install '.[tpu]'`, which needs no TPU.")
  return topologies.get_topology_desc(platform='tpu', topology_name=topology).devices


if __name__ == '__main__':
  main()
