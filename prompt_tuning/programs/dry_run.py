"""The plan of a run: what it would load, train, batch and write, found without reading the frozen model's weights."""

import argparse
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh

from prompt_tuning import trees
from prompt_tuning.devices import meshes, sharding
from prompt_tuning.files import storage
from prompt_tuning.models import loading
from prompt_tuning.models.ensembles import Ensemble
from prompt_tuning.models.places import require_positions
from prompt_tuning.programs import device_memory, dry_run_examples, launch, step_compiler
from prompt_tuning.programs.abstract_models import Outline, read_outline
from prompt_tuning.rows.conditioning import Conditioning
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.runs import inferring, objects, training, use
from prompt_tuning.runs.base import Run
from prompt_tuning.runs.eval_run import EvalRun
from prompt_tuning.runs.infer_run import InferRun
from prompt_tuning.runs.train_run import TrainRun
from prompt_tuning.training import run_files
from prompt_tuning.training.identity import require_same
from prompt_tuning.training.optimizers import rate_at
from prompt_tuning.training.trackers import make_tracker

_PROGRAMS = {TrainRun: 'train', EvalRun: 'eval', InferRun: 'infer'}
_TRAINED = (
  'run.toml', 'README.md', 'model-info.txt', 'metrics.jsonl', 'checkpoint_{step}/state.safetensors',
  'numpy_checkpoints/checkpoint_{step}/encoder.prompt.prompt.prompt', 'last.safetensors', 'best.safetensors',
  'inference_eval/{task}-metrics.jsonl', 'inference_eval/{task}-{step}.jsonl', 'train/events*',
  'training_eval/{task}/events*', 'inference_eval/{task}/events*')


def run(program: str, flags: argparse.Namespace) -> None:
  """Prints the plan of the run that the flags describe.

  Raises:
    ValueError, OSError, ImportError: the run cannot start; the message says what to change.
  """
  _check_topology(program, flags.dry_run)
  described, config_text = launch.describe(program, flags)
  compiler = None if flags.dry_run == 'plan' else step_compiler.Compiler(flags.dry_run, described)
  with launch.explained():
    described.executing()
    show(described, compiler, of_gin=bool(config_text))


def _check_topology(program: str, asked: str) -> None:
  if asked == 'plan':
    return
  if asked != step_compiler.SIMULATED and not re.fullmatch(r'\w+:\d+(x\d+)+', asked):
    raise ValueError(f'--dry_run={asked} is unknown. Give --dry_run for the plan, --dry_run=compile for an '
                     'estimate of the memory of a step, or a TPU slice such as --dry_run=v5e:4x4.')
  if program != 'train':
    raise ValueError(f'--dry_run={asked} compiles a training step, which {program} does not have. Give --dry_run.')


def show(run: Run, compiler: step_compiler.Compiler | None = None, *, of_gin: bool = False) -> None:
  """Prints the plan of a run, and what compiling its step shows, if that is asked for.

  Raises:
    ValueError: something is missing or does not fit; the plan is printed as far as it goes.
  """
  problems: list[str] = []
  attempt = functools.partial(_attempt, problems)
  print(f'Plan of {_PROGRAMS[type(run)]}; nothing is run or written.')
  attempt(lambda: _check_output(run))
  mesh, outline = None, attempt(lambda: read_outline(run))
  if outline is not None:
    if outline.missing is not None:
      problems.append(str(outline.missing))
    _show_model(run, outline)
    attempt(lambda: outline.read_vocabulary(run))
    mesh = attempt(lambda: _show_mesh(run, outline, compiler))
    show = functools.partial(_show_training, compiler=compiler) if isinstance(run, TrainRun) else _show_prompt
    attempt(lambda: show(run, outline, mesh))
  attempt(lambda: dry_run_examples.show_data(run, outline))
  if isinstance(run, TrainRun):
    attempt(lambda: make_tracker(run.tracker.name, run.tracker.options))
  steps = run_files.saved_steps(run.output) if isinstance(run, TrainRun) else []
  if steps:
    print(f'{run.output} holds a run that was saved at step {steps[-1]}: it is resumed.')
    if outline is not None and steps[-1] >= objects.end(run, outline.step):
      problems.append(f'The run in {run.output} has ended at step {steps[-1]}. Choose another output, or more steps.')
    attempt(lambda: require_same(run.output, run_files.read_newest(run.output)[2]['run'], {'settings': run.decides()},
                                 extend=run.extend))
  if problems:
    sys.stdout.flush()
    raise ValueError('The run cannot start:\n' + '\n'.join(f'  - {each}' for each in dict.fromkeys(problems)))
  if files := _files(run, of_gin):
    print('Files that it writes:\n' + '\n'.join(f'  {path}' for path in files))
  print(f'The run can start{f" on {mesh.size} devices" if mesh and mesh.size > 1 else ""}: leave out --dry_run.')


def _attempt(problems: list[str], function: Callable[[], Any]) -> Any:
  try:
    return function()
  except (ValueError, OSError, ImportError) as error:
    problems.append(str(error))
    return None


def _check_output(run: Run) -> None:
  """Checks that the results can be written, without asking an object store."""
  if run.output is not None:
    folder = os.path.dirname(run.output) or '.' if isinstance(run, InferRun) else run.output
    check = storage.check_address if storage.is_remote(folder) else objects.check_output
    check(folder)


def _shape(config: loading.Config) -> str:
  """Returns the sizes of a model's stack, or of both of its stacks if they have configs of their own."""
  count = lambda stack: stack.layers if hasattr(stack, 'layers') else f'{stack.encoder_layers}+{stack.decoder_layers}'
  return ' and '.join(f'{count(stack)} layers, {stack.heads} heads of {stack.head_dim}, width {stack.width}, MLP '
                      f'{stack.mlp_dim}' for stack in getattr(config, 'stacks', (config,)))


def _show_model(run: Run, outline: Outline) -> None:
  config, frozen = outline.config, trees.flatten(outline.params)
  step = outline.step if outline.missing is None else 'unknown'
  print(f'Frozen model: {outline.path}, step {step}: {_shape(config)}, vocabulary {config.vocab_size}\n  '
        f'{trees.count(frozen):,} frozen parameters, {_size(device_memory.bytes_of(frozen))} as {outline.dtype}')


def _show_mesh(run: Run, outline: Outline, compiler: step_compiler.Compiler | None) -> AbstractMesh:
  shape, topology = objects.mesh_shape(run), compiler and compiler.devices()
  devices = topology or len(jax.devices())
  mesh = device_memory.mesh_of(shape, devices, there=topology is not None)
  said = f'this machine has {devices}' if topology is None else f'those of {compiler.topology}'
  if shape.data == -1 and mesh.size != devices:
    said += ', which do not fill it, so data is taken as 1'
  print(f'Mesh: {" x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())}: {_devices(mesh.size)} ({said})')
  meshes.require_fit(mesh, outline.config)
  return mesh


def _show_training(run: Run, outline: Outline, mesh: AbstractMesh | None, *,
                   compiler: step_compiler.Compiler | None) -> None:
  method = training.method_of(run, outline)
  trained = trees.flatten(device_memory.state_of(run, outline).trained)
  print(f'Trained by {type(method).__name__}: {trees.count(trained):,} parameters')
  for name, array in list(trained.items())[:5]:
    print(f'  {name} {tuple(array.shape)}')
  if len(trained) > 5:
    print(f'  … and {len(trained) - 5} more')
  objects.require_trainable(run, outline, trained)
  training.require_start(run, method, outline, outline.first_values(method))
  end = objects.end(run, outline.step)
  if end <= outline.step and outline.missing is None:
    raise ValueError(f'total_steps={end} cannot be used: the checkpoint is at step {outline.step}, and its '
                     f'steps count too. Give {outline.step} plus the steps that you want.')
  first = run.start_from or run.method.options.get('init') or objects.default_first_values(run.method)
  optimizer = training.optimizer(run, method, outline)
  found = [rate_at(optimizer, step).get('learning_rate', float('nan')) for step in (outline.step, end - 1)]
  print(f'First values: {getattr(first, "name", first)}; learning rate {found[0]:.4g} at the first step, '
        f'{found[1]:.4g} at the last; dropout {run.dropout_rate:g}; seed {"drawn" if run.seed is None else run.seed}')
  start = outline.step if outline.missing is None else 'unknown'
  print(f'Steps: {start} to {end}, evaluated every {run.steps_between_evaluations}, '
        f'saved every {run.saving_period}')
  objects.loss(run, outline.vocabulary).require_whole_batches(run.microbatches, run.packed)
  lengths, buckets = objects.lengths_given(run) or {}, run.buckets
  if len(lengths) < 2 and outline.vocabulary is not None:
    lengths, buckets = training.lengths(run, outline, objects.task(run))
  if len(lengths) == 2:
    layout = outline.layout(method.layout())
    _show_batches(run, outline, mesh, layout, lengths, run.microbatches, buckets)
    given = jax.eval_shape(lambda trained: method.condition(trained, outline.facts), outline.first_values(method))
    require_positions(outline.config, _in_front(given, layout), max(layout.row_lengths(lengths).values()))
    if outline.vocabulary is not None:
      dry_run_examples.show_cut(run, outline, layout, lengths)
  if mesh is not None:
    _show_memory(run, outline, mesh, compiler)


def _in_front(given: Conditioning, layout: Layout) -> int:
  """Returns how many positions there are before a decoder's rows."""
  own = given.decoder
  prefix = 0 if own.prefix is None else own.prefix[0].shape[3]
  vectors = own.layer_prompts if own.layer_prompts is not None else own.prompt if layout.in_front else None
  return prefix + (0 if vectors is None else vectors.shape[-2])


def _show_memory(run: Run, outline: Outline, mesh: AbstractMesh, compiler: step_compiler.Compiler | None) -> None:
  try:
    task = objects.task(run) if outline.vocabulary is not None else None
  except (ValueError, OSError, ImportError):
    task = None  # `show_data` says why
  held = device_memory.held(run, outline, task, mesh)
  print('Bytes on each device' + (', without the batch, which could not be made' if task is None else '') + ':')
  _show_bytes({**held, 'gradient': held['trained'], 'together': sum(held.values()) + held['trained']})
  if compiler is None:
    print('  and the temporaries of a step: --dry_run=compile estimates them, --dry_run=v5e:4x4 (or another slice) '
          'asks the TPU compiler')
    return
  step = compiler.step(mesh)
  own = step.arguments - sum(held.values())
  print(f'Compiled for {compiler.topology}, by the TPU compiler:' if not compiler.simulates else
        f'Estimated by compiling the step for {_devices(mesh.size, "simulated CPU ")}. XLA for TPUs or GPUs orders and '
        'fuses differently,\nand keeps as bfloat16 some of what is float32 here: xxl compiled for TPUs needs 0.5 to '
        '1.4 times the temporaries (docs/pods.md):')
  _show_bytes({'arguments' + (f', as counted, plus {own:,} for padding' if own else ', as counted'): step.arguments,
               'temporaries, gradient included': step.temporary, 'together': step.arguments + step.temporary})
  if step.exchanged:
    print('Exchanged in a step, as bytes that each device then has'
          + (' (xxl compiled for TPUs: 0.3 to 0.5 times that):' if compiler.simulates else ':'))
    _show_bytes(step.exchanged)


def _show_bytes(rows: Mapping[str, int]) -> None:
  for name, count in rows.items():
    print(f'  {count:>16,}  {name}')


def _show_prompt(run: Run, outline: Outline, mesh: AbstractMesh | None) -> None:
  found = use.trained(run, outline)
  if isinstance(found, Ensemble) and found.kind == 'mean':
    found.collect(outline)
  members = found.members if isinstance(found, Ensemble) else [found]
  for member in members:
    member.conditioning(outline, task=next(iter(member.tasks()), None))
    print('Handed to the model: ' + (', '.join(
      f'{name} {tuple(array.shape)}' for name, array in list(member.tensors.items())[:5]) or 'nothing'))
  lengths = objects.lengths_given(run) or {}
  if len(lengths) == 2:
    for member in members:
      _show_batches(run, outline, mesh, outline.layout(member.layout()), lengths, None)
  if mesh is not None:
    print('Bytes on each device:')
    _show_bytes({f'frozen, {outline.dtype}': sharding.bytes_of_device(outline.params, mesh),
                 'handed to the model': sum(device_memory.bytes_of(member.tensors) for member in members)})


def _show_batches(run: Run, outline: Outline, mesh: AbstractMesh | None, layout: Layout,
                  texts: Mapping[str, int], microbatches: int | None, buckets: Sequence[int] | None = None) -> None:
  rows = meshes.rows_at_once(mesh, run.batch_size, microbatches)
  lengths = layout.row_lengths(texts)
  varying = ''
  if getattr(run, 'packed', False) and 'encoder' in lengths:
    varying = ', the decoder\'s longer if short inputs leave room for more targets'
  if buckets is not None:
    varying = f', or shorter: inputs in buckets {tuple(buckets)}'
  print(f'Batches: {microbatches or 1} x ' + ', '.join(f'{stack} [{rows}, {n}]' for stack, n in lengths.items())
        + varying)


def _files(run: Run, of_gin: bool) -> list[str]:
  """Returns the files that a run writes."""
  if isinstance(run, InferRun):
    marker = [f'{run.output}.COMPLETED'] if run.marker else []
    configs = [storage.join(run.output.rpartition('/')[0], 'config.gin')] if of_gin else []
    return [run.output, *marker, inferring.settings_path(run), *configs]
  if run.output is None:
    return []
  name = run.data.name.rpartition('/')[2]
  config = ('config.gin',) if of_gin else ()
  return [storage.join(run.output, file) for file in config + (_TRAINED if isinstance(run, TrainRun) else (
    'run.toml', 'model-info.txt', f'inference_eval/{name}-metrics.jsonl', f'inference_eval/{name}-{{step}}.jsonl',
    f'inference_eval/{name}/events*'))]


def _devices(count: int, kind: str = '') -> str:
  return f'one {kind}device' if count == 1 else f'{count} {kind}devices'


def _size(count: int) -> str:
  for unit in ('bytes', 'kB', 'MB', 'GB'):
    if count < 1000 or unit == 'GB':
      return f'{count:.3g} {unit}' if unit != 'GB' or count < 1000 else f'{count:,.0f} {unit}'
    count /= 1000
  return ''
