"""The training loop: data, state, step, figures, evaluation, saving. Read it from top to bottom."""

import collections
import contextlib
import dataclasses
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from prompt_tuning import trees
from prompt_tuning.checks import typed
from prompt_tuning.data.pipeline import TrainBatches
from prompt_tuning.data.prefetch import Prefetched
from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.devices import compilation, memory, meshes, multihost, sharding
from prompt_tuning.devices.preemption import Interrupted, Preemption
from prompt_tuning.evaluation.saved import Trained
from prompt_tuning.files import storage
from prompt_tuning.losses import Loss
from prompt_tuning.models.cached_texts import BehindCachedTexts, CachedTexts
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.loading import describe as describe_model
from prompt_tuning.names import require_number
from prompt_tuning.training import lock, run_files
from prompt_tuning.training.averaging import averaged, best_of, reached, row_lengths
from prompt_tuning.training.background import Background
from prompt_tuning.training.due import due
from prompt_tuning.training.evaluations import Evaluations, Evaluator, compare, require_tasks
from prompt_tuning.training.identity import identity, require_same
from prompt_tuning.training.metric_log import MetricLog, Silence
from prompt_tuning.training.optimizers import Adafactor, Optimizer, build, rate_at
from prompt_tuning.training.profiler import PROFILE_AFTER, Profiler
from prompt_tuning.training.requirements import require_usable
from prompt_tuning.training.settings import CACHE_LIMIT, Run, Saving, Stop
from prompt_tuning.training.step import TrainState, jitted_step
from prompt_tuning.training.trackers import tracker_of
from prompt_tuning.tuning.method import Method


@lock.holding
@typed
def train(*, model: LanguageModel, method: Method, task: Task | Mixture, lengths: Mapping[str, int], model_dir: str,
          train_steps: int, optimizer: Optimizer | optax.GradientTransformation = Adafactor(), loss: Loss = Loss(),
          batch_size: int = 128,
          microbatches: int | None = None, seed: int | None = None, packed: bool = False,
          buckets: Sequence[int] | None = None, split: str = 'train',
          cache_limit: int = CACHE_LIMIT, evaluations: Evaluations = Evaluations(), saving: Saving = Saving(),
          log_period: int = 10, stop: Stop | None = None, settings: Mapping[str, Any] | None = None,
          files: Mapping[str, str] | None = None, profile: int | None = None, start_from: Trained | None = None,
          extend: bool = False, quiet: bool = False, tracker: Any = None) -> Run:
  """Trains a method's tensors for a frozen model; an existing run in `model_dir` is resumed.

  A run that is killed at any moment and resumed ends with the same bits as an uninterrupted one. On SIGTERM and Ctrl-C,
  it saves its state after the current step, or between two batches of an evaluation, which is then repeated when the
  run is resumed. Only one process at a time writes the folder, see `lock`.

  Args:
    model: the frozen model, with a vocabulary. The run starts at the model's step.
    method: determines the trained tensors.
    task: the training task.
    lengths: maximum tokens of 'inputs' and 'targets', end token included; the prompt is not counted.
    model_dir: the run's folder, see `run_files`.
    train_steps: the global step at which the run ends: the model's steps plus the run's.
    optimizer: updates the trained tensors; any optax transformation works, and counts steps from 0.
    loss: the loss to minimise.
    batch_size: rows per batch.
    microbatches: the number of parts that a batch is run in.
    seed: of initial values, data order and dropout; None draws one, which is saved with the run's state.
    packed: put several examples into a row if they fit.
    buckets: lengths of inputs, ascending: rows of similar length are batched together; not with `packed`.
    split: the split to train on.
    cache_limit: bytes of memory for cached keys and values, if the method's layout caches texts; the rest goes to a
      file in the run's folder, which is removed when the run ends.
    evaluations: what is evaluated, and how often.
    saving: how often the state is saved.
    log_period: steps from one line of figures to the next.
    stop: when to end before the last step; None never.
    settings: other settings that determine the result; a run is not resumed with different ones.
    files: name -> text of files that describe the run, written into its folder.
    profile: the number of steps to record with JAX's profiler, after `PROFILE_AFTER` steps, in the folder `profile`.
    start_from: trained tensors of this method, which are the first values instead of the method's own.
    extend: resume with another number of steps even if the learning rate depends on it.
    quiet: print nothing.
    tracker: takes the figures too, on the main host: an object, see `trackers`, or the name of one.

  Returns:
    The finished run.

  Raises:
    ValueError: something does not fit; the message says what to change.
    FloatingPointError: the loss or the trained tensors became infinite or NaN; the last good state is kept.
    OSError: the folder cannot be written, another process writes it, or it was removed meanwhile.
    SystemExit: the run was preempted by SIGTERM, and its state saved; the exit status is 0.
    KeyboardInterrupt: likewise, by Ctrl-C.
  """
  for name, value, least in (('train_steps', train_steps, 1), ('batch_size', batch_size, 1),
                             ('log_period', log_period, 1), ('cache_limit', cache_limit, 0)):
    require_number(name, value, least=least, whole=True)
  for name, value in (('microbatches', microbatches), ('profile', profile)):
    require_number(name, value, least=1, whole=True, none=True)
  require_number('seed', seed, least=0, below=2**32, whole=True, none=True)
  tracker = tracker_of(tracker)
  mesh, main = model.module.config.mesh, multihost.is_main()
  meshes.rows_at_once(mesh, batch_size, microbatches)
  if method.tasks is not None:
    method = method.of_tasks([part.name for part, _ in task.parts(split)])
  require_tasks(method.tasks, task, evaluations)
  if stop is not None and loss.function is not None:
    raise ValueError(f'stop_accuracy={stop.accuracy} cannot be used: the loss {loss.name} does not count correct '
                     'tokens. Leave out stop_accuracy=, or use cross-entropy.')
  layout, warnings = require_usable(model=model, method=method, task=task, split=split, lengths=lengths, loss=loss,
                                    train_steps=train_steps, evaluations=evaluations, microbatches=microbatches,
                                    packed=packed)
  if main:
    storage.remove_left(model_dir)
  saved = run_files.read_newest(model_dir)
  if seed is None:
    seed = saved[2]['run']['seed'] if saved else int(multihost.from_main(str(secrets.randbits(31)).encode()))
  own = identity(model=model, method=method, task=task, split=split, lengths=lengths, batch_size=batch_size,
                 packed=packed, buckets=buckets, seed=seed, optimizer=optimizer, loss=loss, settings=settings)
  about = {**own, 'model_config': describe_model(model.module.config), 'made_for': model.facts.made_for()}

  # --- Data ---------------------------------------------------------------------------------------------------
  source = TrainBatches(task, model.vocabulary, layout, lengths=lengths, batch_size=batch_size, seed=seed,
                        packed=packed, buckets=buckets, rows=sharding.rows_of_host(mesh, batch_size), split=split,
                        prompts=method.tasks or (), fields=loss.fields)
  texts = CachedTexts(model, model_dir, memory_limit=cache_limit) if layout.cached else None
  batches = Prefetched(source if texts is None else BehindCachedTexts(source, texts))

  # --- State --------------------------------------------------------------------------------------------------
  trained = method.initialise(jax.random.key(seed), model)
  if start_from is not None:
    trained = run_files.started_from(start_from, method, trained, model)
  state = TrainState(jnp.int32(model.step), trained, build(optimizer, model.step).init(trained), jnp.uint32(seed))
  best: dict[str, Any] | None = None
  stale = 0  # evaluations since the best one
  metrics: dict[str, float] = {}
  owed = False  # whether a signal interrupted the evaluation of the saved step
  if saved:
    step, arrays, metadata = saved
    require_same(model_dir, metadata['run'], own, extend=extend)
    state = dataclasses.replace(state, step=jnp.int32(step),
                                trained=run_files.restore(state.trained, arrays, 'trained'),
                                optimizer=run_files.restore(state.optimizer, arrays, 'optimizer'))
    batches.restore(metadata['data'])
    best, stale, metrics = metadata['best'], metadata['stale'], metadata['metrics']
    owed = metadata.get('owed', False)
  state = sharding.copied(mesh, state)
  if main and int(state.step) < train_steps:
    run_files.write_model_info(model_dir, model.params, trees.flatten(state.trained), model.step)
    for name, text in (files or {}).items():
      storage.write_bytes(storage.join(model_dir, name), text.encode())
  evaluator = Evaluator(model, task, lengths, batch_size, loss, evaluations, model_dir, split)
  run_step = jitted_step(model.module, method, optimizer, model.step, loss=loss, microbatches=microbatches)

  # --- Steps --------------------------------------------------------------------------------------------------
  step = began_at = int(state.step)
  log = MetricLog(model_dir, start_step=step, total_steps=train_steps, quiet=quiet, tracker=tracker,
                  settings=own) if main else Silence()
  with (log, contextlib.closing(batches), Preemption(quiet=quiet).watched() as preemption, Background() as saver,
        contextlib.ExitStack() as stack):

    def evaluate() -> bool:
      """Evaluates the step, and saves the best tensors; returns True if the run must stop early."""
      nonlocal best, stale, metrics, evaluated
      with log.phase('Evaluating') if evaluations.anything and not evaluated else contextlib.nullcontext():
        metrics = evaluator(lambda name: method.condition_of(name, state.trained, model), layout, step, log,
                            preemption.heed)
      evaluated = True
      name, value, better = compare(metrics, evaluations.objective, best)
      if better:
        best, stale = {'step': step, 'objective': name, 'value': value, 'metrics': metrics}, 0
        saver.run(run_files.save_best, model_dir, jax.device_get(method.export(state.trained, model)),
                  {**about, 'step': step, 'best': best}, jax.device_get(method.prompts(state.trained, model)))
      else:
        stale += 1
      if evaluations.patience is None or stale < evaluations.patience:
        return False
      which = f'best {best["value"]:.4g} at step {best["step"]}' if best else 'it was never a number'
      log.say(f'Stopped early: {name} has not improved in {stale} evaluations; {which}.')
      return True

    def save() -> None:
      """Saves the state in the background."""
      lock.check(model_dir)
      held = jax.device_get(state)  # the next step overwrites the state on the devices
      saver.run(run_files.save, model_dir, step, trained=trees.flatten(held.trained), optimizer=held.optimizer,
                metadata={'run': own, 'data': batches.state(), 'best': best, 'stale': stale, 'metrics': metrics,
                          'recent': [[float(x) for x in pair] for pair in recent], **({'owed': True} if owed else {})},
                about={**about, 'best': best}, keep=saving.keep, exported=method.export(held.trained, model),
                prompts=method.prompts(held.trained, model))

    if step >= train_steps and not owed:
      log.say(f'The run in {model_dir} has ended at step {step}{best_of(best)}. Nothing is trained: give it more '
              'steps, or choose another folder.')
    log.say(f'{"Resumed" if saved else "Started"} at step {step} of {train_steps}: '
            f'{trees.count(state.trained):,} trained parameters, {trees.count(model.params):,} frozen, in {model_dir}')
    for warning in warnings:
      log.say(f'Warning: {warning}')
    pending: list[dict[str, Any]] = []
    recent = collections.deque(saved[2].get('recent', ()) if saved else (),  # correct and all tokens of the last steps
                               maxlen=-(-stop.examples // batch_size) if stop else 0)
    began, evaluated = time.monotonic(), False
    stopped = (evaluations.patience is not None and stale >= evaluations.patience) or reached(stop, recent)
    compiled: dict[tuple[tuple[int, ...], ...], Any] = {}  # one for each bucket
    profiler = stack.enter_context(Profiler(model_dir, first=step + PROFILE_AFTER, steps=profile, say=log.say))
    if owed:
      with contextlib.suppress(Interrupted):
        stopped, owed = evaluate() or stopped, False
      save()
    told = owed  # whether a signal ends the run here
    while step < train_steps and not stopped and not told:
      batch = sharding.global_batch(mesh, next(batches), batch_size)
      shape = tuple(array.shape for array in jax.tree.leaves(batch))
      if shape not in compiled:
        with log.phase(f'Compiling a step for rows of {row_lengths(batch)} tokens'):
          compiled[shape] = compilation.compile_step(run_step, model.params, state, batch)
        began = time.monotonic()
      state, sums = compiled[shape](model.params, state, batch)
      step += 1
      profiler.after(step, state)
      pending.append(sums)
      recent.append((sums.get('correct', 0.0), sums['weights']))
      passed = step - model.step
      stopped = passed % log_period == 0 and reached(stop, recent)
      if stopped:
        log.say(f'Stopped: {stop.accuracy:.1%} of the tokens in the last {stop.examples} examples are correct.')
      told = preemption.told()
      now = due(passed, last=step == train_steps or stopped, preempted=told, log_period=log_period,
                evaluation_period=evaluations.period, saving_period=saving.period)
      if now.log:
        lock.check(model_dir)
        figures = averaged(pending, step, model_dir)
        elapsed = max(time.monotonic() - began, 1e-9)
        figures.update(**rate_at(optimizer, step - 1), steps_per_second=len(pending) / elapsed,
                       examples_per_second=figures.pop('examples') / elapsed,
                       tokens_per_second=figures.pop('tokens') / elapsed, **memory.peak())
        log.write(step, figures)
        log.show(step, figures)
        pending, began = [], time.monotonic()
      owed = now.evaluate
      if owed:
        with contextlib.suppress(Interrupted):
          stopped, owed = evaluate() or stopped, False
        told = told or owed
      if now.save or stopped or told:
        save()
      if now.evaluate or now.save:
        began = time.monotonic()
    if told and (owed or (step < train_steps and not stopped)):
      saver.wait()
      said = (f'{preemption.name}: saved at step {step} of {train_steps}. Run the same command again to resume'
              + (' with the evaluation of this step.' if owed else '.'))
      log.say(said)
      raise preemption.ending(said)
    if began_at < step and best is None and evaluations.anything and metrics:
      log.say('The objective was NaN at every evaluation, so no step is the best one: only the last tensors are kept. '
              'Repair the metric, or name another one with objective=.')
    if began_at < step:
      path = storage.join(model_dir, run_files.BEST if best else run_files.LAST)
      log.say(f'Finished at step {step}{best_of(best)}: {path}')
    if texts is not None:
      log.say(f'{texts.read} texts were read once: {texts.in_memory:,} bytes in memory, {texts.on_disk:,} on disk.')
    cut = batches.truncated
    if cut['inputs'] or cut['targets']:
      log.say(f'Of {cut["examples"]} training examples read, {cut["inputs"]} inputs and {cut["targets"]} targets were '
              f'longer than {dict(lengths)} and were truncated. Increase lengths= to keep them whole.')
  return Run(model_dir, step, jax.device_get(trees.flatten(state.trained)), metrics, best)
