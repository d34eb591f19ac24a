"""Trains many runs at once for one frozen model: a step has the rows of all, and each has its own tensors and files.

Each run is what `loop.train` makes of it alone: data, first values, learning rates, evaluations, the best step.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from prompt_tuning.checks import typed
from prompt_tuning.data.beside import Beside
from prompt_tuning.data.metric_values import lower_is_better
from prompt_tuning.data.prefetch import Prefetched
from prompt_tuning.devices import compilation, sharding
from prompt_tuning.devices.preemption import Interrupted, Preemption
from prompt_tuning.files import progress, storage
from prompt_tuning.losses import Loss
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.names import require_number
from prompt_tuning.training import halving as halve
from prompt_tuning.training import lock, run_files
from prompt_tuning.training.averaging import row_lengths
from prompt_tuning.training.background import Background
from prompt_tuning.training.many_lines import of_evaluations, of_losses
from prompt_tuning.training.many_step import make_many_step, parts
from prompt_tuning.training.members import Member, require_same_lengths, require_shared
from prompt_tuning.training.metric_log import phase
from prompt_tuning.training.optimizers import build
from prompt_tuning.training.running import MemberRun, Running
from prompt_tuning.training.settings import Saving


@typed
def train_many(*, model: LanguageModel, members: Sequence[Member], model_dir: str, loss: Loss = Loss(),
               microbatches: int | None = None, at_once: int | None = None, saving: Saving = Saving(),
               log_period: int = 10, halving: int | None = None, quiet: bool = False) -> list[MemberRun]:
  """Trains several runs together; existing ones in `model_dir` are resumed, and end with the same bits.

  Each member becomes what `loop.train` makes of it alone, up to rounding. One whose loss or tensors become infinite or
  NaN ends, and the others continue. Signals are heeded as in `loop.train`.

  Args:
    model: the frozen model, with a vocabulary.
    members: the runs.
    model_dir: the folder of their common state.
    loss: the loss to minimise, a sum over rows.
    microbatches: the number of parts that each member's batch is run in.
    at_once: how many members' rows are run at once, rather than one after the other. None means all; on CPUs 1, since
      more rows at once take more memory there, and no less time.
    saving: how often the state is saved.
    log_period: steps from one line of figures to the next.
    halving: f of successive halving, see `halving`: of n members, the best n / f continue after each rung.
    quiet: print nothing.

  Returns:
    The ended runs, in the order of the members.

  Raises:
    ValueError: a member cannot be trained, or not together with the others; the message says why.
    OSError, SystemExit, KeyboardInterrupt: as in `loop.train`.
  """
  require_number('log_period', log_period, least=1, whole=True)
  for name, value in (('microbatches', microbatches), ('at_once', at_once)):
    require_number(name, value, least=1, whole=True, none=True)
  require_shared(model, members, loss, microbatches)
  rungs = {} if halving is None else halve.rungs_of(members, halving, model.step)
  with contextlib.ExitStack() as stack:
    for folder in (model_dir, *(member.model_dir for member in members)):
      stack.enter_context(lock.held(folder))
    run = _Together(model, members, model_dir, loss, microbatches, at_once, saving, log_period, rungs, quiet)
    stack.callback(run.close)
    with Preemption(quiet=quiet).watched() as preemption, Background() as saver:
      return run.run(preemption, saver)


class _Together:
  """The members that still run, and their step."""

  def __init__(self, model: LanguageModel, members: Sequence[Member], folder: str, loss: Loss,
               microbatches: int | None, at_once: int | None, saving: Saving, log_period: int,
               rungs: Mapping[int, int], quiet: bool):
    self._model, self._folder, self._loss, self._saving = model, folder, loss, saving
    self._microbatches, self._at_once, self._log_period = microbatches, at_once, log_period
    self._display = progress.display(quiet=quiet)
    self._rungs, self._last = rungs, max(member.train_steps for member in members)
    storage.remove_left(folder)
    saved = run_files.read_newest(folder)
    self.step, arrays, metadata = saved or (model.step, {}, {})
    found = {} if saved is None else _members_of(folder, metadata, [member.name for member in members], rungs)
    self._resumed = saved is not None
    self.all = [Running(member, model, loss, microbatches, found=found.get(member.name), step=self.step)
                for member in members]
    self.running = [each for each in self.all if not each.ended]
    self._compiled: dict[Any, Any] = {}
    self._pending: list[Any] = []
    self._batches: Prefetched | None = None
    self._sources = _batches(model, self.running, loss.fields)
    require_same_lengths(model, [each.member for each in self.running], self._sources)
    states = []
    for each, source in zip(self.running, self._sources, strict=True):
      state, name = each.member.first_state(model), each.member.name
      each.begin_files(state)
      if self._resumed:
        source.restore(found[name]['data'])
        state = type(state)(jax.numpy.int32(self.step), run_files.restore(state.trained, arrays, f'{name}/trained'),
                            run_files.restore(state.optimizer, arrays, f'{name}/optimizer'), state.seed)
      states.append(sharding.copied(model.module.config.mesh, state))
    self._states = tuple(states)
    self._join()

  def run(self, preemption: Preemption, saver: Background) -> list[MemberRun]:
    """Trains until all members have ended."""
    self._begin()
    begun = bool(self.running)
    told = self._settle(preemption, saver)
    if self._resumed and begun:
      self._save(saver)  # what was still due at the saved step
    while self.running and not told:
      self._run_step()
      told = preemption.told()
      due = self._due()
      if told or any(each.log for each in due):
        self._log()
      told = self._settle(preemption, saver) or told
      if told or any(each.save for each in due) or not self.running:
        self._save(saver)
    if told and self.running:
      saver.wait()
      said = (f'{preemption.name}: saved at step {self.step} of {self._last}. Run the same command again to resume.')
      self._say(said)
      raise preemption.ending(said)
    saver.wait()
    return [each.finished() for each in self.all]

  def close(self) -> None:
    """Ends the thread that prepares batches, and closes the files of figures."""
    if self._batches is not None:
      self._batches.close()
    for each in self.running:
      each.log.close()
    self._display.close()

  def _begin(self) -> None:
    if not self.running:
      self._say(f'The {len(self.all)} runs in {self._folder} have ended. Nothing is trained: choose another folder.')
      return
    self._say(f'{"Resumed" if self._resumed else "Started"} at step {self.step} of {self._last}: '
              f'{len(self.running)} of {len(self.all)} runs, in {self._folder}')
    if self._rungs:
      self._say(halve.planned(len(self.all), self._rungs, self._last - self._model.step))
    for warning in dict.fromkeys(warning for each in self.all for warning in each.warnings):
      self._say(f'Warning: {warning}')
    self._began = time.monotonic()

  def _join(self) -> None:
    """Prepares the step of the members that run."""
    if self._batches is not None:
      self._batches.close()  # which moves each source back to its last batch that was used
    members = [each.member for each in self.running]
    self._compiled.clear()
    if not members:
      return
    self._batches = Prefetched(Beside(self._sources))
    sizes = [member.batch_size for member in members]
    self._rows = sum(sizes)
    self._jitted = jax.jit(make_many_step(
      self._model.module, [member.method for member in members],
      [build(member.optimizer, self._model.step) for member in members],
      batch_sizes=sizes, loss=self._loss,
      microbatches=parts(sizes, self._microbatches, self._at_once, self._model.module.config.mesh)), donate_argnums=1)

  def _run_step(self) -> None:
    params = self._model.params
    batch = sharding.global_batch(self._model.module.config.mesh, next(self._batches), self._rows)
    shape = tuple(array.shape for array in jax.tree.leaves(batch))
    if shape not in self._compiled:
      runs = f'{len(self.running)} run{"s" * (len(self.running) > 1)}'
      with phase(f'Compiling a step of {runs} for rows of {row_lengths(batch)} tokens', self._display):
        self._compiled[shape] = compilation.compile_step(self._jitted, params, self._states, batch)
      self._began = time.monotonic()
    self._states, sums = self._compiled[shape](params, self._states, batch)
    self._pending.append(sums)
    self.step += 1

  def _due(self) -> list[Any]:
    passed = self.step - self._model.step
    return [each.due(self.step, last=passed in self._rungs, log_period=self._log_period,
                     saving_period=self._saving.period) for each in self.running]

  def _log(self) -> None:
    """Logs the figures since the last line."""
    lock.check(self._folder)
    found, seconds = jax.device_get(self._pending), max(time.monotonic() - self._began, 1e-9)
    for i, each in enumerate(self.running):
      each.take([sums[i] for sums in found], self.step, seconds)
    rate = len(found) / seconds
    self._display.show('step', self.step, self._last, figures=of_losses(self.running, len(self.all), rate),
                       left=(self._last - self.step) / max(rate, 1e-9))
    self._pending, self._began = [], time.monotonic()

  def _settle(self, preemption: Preemption, saver: Background) -> bool:
    """Does what is due after a step: evaluations, and the ends of members. Returns True if a signal interrupted it.

    Done again after a resumed step, it only does what was not done.
    """
    passed = self.step - self._model.step
    due = self._due() if passed else []
    if not any(each.log for each in due):
      return False  # so that a signal, which logs a step too, changes nothing of when a member ends
    evaluated = [(each, state) for each, state, now in zip(self.running, self._states, due, strict=True)
                 if now.evaluate and not each.diverged and each.evaluated != self.step]
    try:
      for i, (each, state) in enumerate(evaluated):
        self._display.show('Evaluating', i, len(evaluated), unit=' runs')
        each.evaluate(state, self.step, saver, preemption.heed)
    except Interrupted:
      return True
    finally:
      self._display.end('Evaluating')
    if evaluated and evaluated[0][0].member.evaluations.anything:
      self._say(of_evaluations([each for each, _ in evaluated], self.step))
    ended = {each: each.diverged or (
      'finished' if self.step >= each.member.train_steps else
      f'no better in {each.stale} evaluations at step {self.step}' if each.out_of_patience else '')
      for each in self.running}
    alive = [each for each in self.running if not ended[each]]
    lower = bool(alive) and lower_is_better(alive[0].objective or '')
    for i in halve.ranked([each.value for each in alive], lower=lower)[self._rungs.get(passed, len(alive)):]:
      ended[alive[i]] = f'ended by halving at step {self.step}'
    if any(ended.values()):
      self._end({each: reason for each, reason in ended.items() if reason}, saver)
    if evaluated:
      self._began = time.monotonic()
    return False

  def _end(self, ended: Mapping[Running, str], saver: Background) -> None:
    """Ends some members, and removes their rows."""
    positions = self._batches.state()
    for i, each in enumerate(self.running):
      if each in ended:
        each.end(ended[each], self._states[i], self.step, positions[str(i)], saver, self._saving.keep)
        if ended[each] != 'finished':
          self._say(f'{each.member.name}: {ended[each]}')
    stay = [i for i, each in enumerate(self.running) if each not in ended]
    self.running, self._sources = [self.running[i] for i in stay], [self._sources[i] for i in stay]
    self._states = tuple(self._states[i] for i in stay)
    self._join()

  def _save(self, saver: Background) -> None:
    """Saves the state of all in the background."""
    lock.check(self._folder)
    held = jax.device_get(self._states)  # the next step overwrites the states on the devices
    positions = self._batches.state() if self.running else {}
    for each, state in zip(self.running, held, strict=True):
      each.save_last(state, self.step, saver)
    places = {each: positions[str(i)] for i, each in enumerate(self.running)}
    metadata = {'run': {'method': 'several runs'}, 'rungs': [list(each) for each in self._rungs.items()],
                'members': {each.member.name: each.metadata(places.get(each)) for each in self.all}}
    saver.run(run_files.save_together, self._folder, self.step, {
      each.member.name: state for each, state in zip(self.running, held, strict=True)}, metadata, self._saving.keep)

  def _say(self, text: str) -> None:
    self._display.say(text)


def _batches(model: LanguageModel, running: Sequence[Running], fields: Sequence[str]) -> list[Any]:
  """Returns the batches of each member; all have positions for the prompt in their rows, or none."""
  made = [each.member.train_batches(model, each.layout, fields) for each in running]
  if len({batches.in_front for batches in made}) < 2:
    return made
  within = lambda layout: type(layout)(**{**vars(layout), 'within': True})
  return [each.member.train_batches(model, within(each.layout), fields) for each in running]


def _members_of(folder: str, metadata: Mapping[str, Any], names: Sequence[str],
                rungs: Mapping[int, int]) -> Mapping[str, Any]:
  """Returns the members of a saved state. Raises ValueError if they, or the rungs, are not those of now."""
  found = metadata.get('members')
  if found is None:
    raise ValueError(f'model_dir={folder} holds a single run, not several. Choose another folder.')
  if sorted(found) != sorted(names):
    missing, new = sorted(set(found) - set(names)), sorted(set(names) - set(found))
    changes = [f'{word} {", ".join(part[:3])}{" …" * (len(part) > 3)}' for word, part in (
      ('without', missing), ('with', new)) if part]
    raise ValueError(f'model_dir={folder} holds other runs: now it is asked for {" and ".join(changes)}. Choose '
                     'another folder, or give the same runs.')
  if metadata['rungs'] != [list(each) for each in rungs.items()]:
    now = [list(each) for each in rungs.items()]
    raise ValueError(f'model_dir={folder} holds runs of which some end at {metadata["rungs"] or "no step"}, but now it '
                     f'is asked for {now or "none"} (pairs of a step and how many runs continue). Choose another '
                     'folder, or the same halving= and steps.')
  return found
