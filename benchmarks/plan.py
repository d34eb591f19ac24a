"""Prints what a step of prompt tuning T5 1.1 xxl takes of each device on several slices, as a table.

  pip install '.[tpu]'  # libtpu has the compiler of TPUs; no TPU is needed
  python benchmarks/plan.py

What is held is exact. Temporaries are what XLA for TPUs says when it compiles the step for the slice, and beside it
what `--dry_run=compile` estimates with simulated CPUs. Nothing is allocated or executed.
"""

import argparse
import dataclasses
import os
import re

os.environ['JAX_PLATFORMS'] = 'cpu'  # the slices are not here

from prompt_tuning.programs import abstract_models as outline
from prompt_tuning.programs import command, device_memory, launch, step_compiler
from prompt_tuning.runs import objects

GIGA, GIBI = 1e9, 2**30


@dataclasses.dataclass(frozen=True)
class Row:
  """A run on a slice.

  Attributes:
    name: of the slice.
    topology: as the compiler names it; None where there is none for it.
    mesh: how many devices stand along each axis, all other are 1.
    dtype: of the frozen parameters.
    microbatches: parts of a batch.
    rematerialise: 'minimal' or 'full'.
  """

  name: str
  topology: str | None
  mesh: dict[str, int]
  dtype: str = 'bfloat16'
  microbatches: int = 1
  rematerialise: str = 'full'


ROWS = (
  Row('v3-32', 'v3:4x4', {'data': 4, 'model': 8}),
  Row('v3-32', 'v3:4x4', {'data': 4, 'model': 8}, microbatches=4, rematerialise='minimal'),
  Row('v3-32', 'v3:4x4', {'fsdp': 32}),
  Row('v3-32', 'v3:4x4', {'fsdp': 32}, rematerialise='minimal'),
  Row('v5e-16', 'v5e:4x4', {'data': 2, 'model': 8}, microbatches=4),
  Row('v5e-16', 'v5e:4x4', {'fsdp': 16}),
  Row('v5e-16', 'v5e:4x4', {'fsdp': 16}, microbatches=2, rematerialise='minimal'),
  Row('v5e-16', 'v5e:4x4', {'fsdp': 4, 'model': 4}),
  Row('one v5e', 'v5e:1x1', {}, dtype='int8', microbatches=32),
  Row('one GPU', None, {}, microbatches=16),
  Row('one GPU', None, {}, microbatches=16, dtype='int8'),
)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rows', default='', help='only those whose slice and mesh match, such as "v3.*fsdp"')
  parser.add_argument('--batch_size', type=int, default=128)
  parser.add_argument('--inputs', type=int, default=512)
  parser.add_argument('--targets', type=int, default=32)
  options = parser.parse_args()
  print('| slice | mesh | frozen as | LAYER_REMAT | microbatches | frozen, GB | all arguments, GB | temporaries, GB '
        '| the same, simulated | exchanged, GB/step |\n' + '|---' * 10 + '|')
  for row in ROWS:
    if re.search(options.rows, f'{row.name} {row.mesh}'):
      print(_line(row, options), flush=True)


def _line(row: Row, options: argparse.Namespace) -> str:
  flags = command.parse_flags('train', [
    '--gin_file=prompt_tuning/configs/models/t5_1_1_xxl_prompt.gin',
    '--gin_file=prompt_tuning/configs/runs/prompt_finetune.gin',
    '--gin.VOCABULARY=@seqio.PassThroughVocabulary()', '--gin.seqio.PassThroughVocabulary.size=32100',
    "--gin.INITIAL_CHECKPOINT_PATH='is/not/read'", "--gin.MODEL_DIR='is/not/written'", '--gin.TRAIN_STEPS=1',
    "--gin.MIXTURE_OR_TASK_NAME='Add1'", f'--gin.BATCH_SIZE={options.batch_size}', '--gin.PROMPT_LENGTH=100',
    f"--gin.TASK_FEATURE_LENGTHS={{'inputs': {options.inputs}, 'targets': {options.targets}}}",
    f'--gin.partitioning.PjitPartitioner.mesh_shape={row.mesh}', f"--gin.LAYER_REMAT='{row.rematerialise}'",
    f"--gin.utils.RestoreCheckpointConfig.dtype='{row.dtype}'",
    f'--gin.trainer.Trainer.num_microbatches={row.microbatches}', '--dry_run'])
  run, _ = launch.build('train', flags)
  mesh = device_memory.mesh_of(objects.mesh_shape(run), 1)
  frozen = outline.read_outline(run)
  frozen.read_vocabulary(run)
  held = device_memory.held(run, frozen, objects.task(run, frozen.vocabulary), mesh)
  simulated = step_compiler.Compiler(step_compiler.SIMULATED, run).step(mesh)
  assert simulated.arguments == sum(held.values()), (simulated, held)
  step, temporary = simulated, '–'
  if row.topology:
    try:
      step = step_compiler.Compiler(row.topology, run).step(mesh)
      temporary = f'{step.temporary / GIGA:.2f}'
    except ValueError as error:
      much = re.search(r'temporaries \(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)', str(error))
      if much is None:
        raise
      step, temporary = None, f'{float(much[1]) * GIBI / GIGA:.2f}: does not fit'
  exchanged = [f'{kind} {count / GIGA:.2f}' for kind, count in (step.exchanged if step else {}).items()
               if count > GIGA / 100]
  cells = [row.name, ', '.join(f'{axis}={size}' for axis, size in row.mesh.items()) or '1', row.dtype,
           row.rematerialise, str(row.microbatches), f'{next(iter(held.values())) / GIGA:.2f}',
           f'{sum(held.values()) / GIGA:.2f}', temporary, f'{simulated.temporary / GIGA:.2f}',
           ', '.join(exchanged) or '–']
  return '| ' + ' | '.join(cells) + ' |'


if __name__ == '__main__':
  main()
