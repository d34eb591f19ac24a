"""A member of runs that are trained together, while it runs: its figures, its best step and its files."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from prompt_tuning import trees
from prompt_tuning.devices import memory
from prompt_tuning.files import storage
from prompt_tuning.losses import Loss
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.loading import describe as describe_model
from prompt_tuning.training import run_files
from prompt_tuning.training.averaging import first_diverged, means
from prompt_tuning.training.background import Background
from prompt_tuning.training.due import Due, due
from prompt_tuning.training.evaluations import Evaluator, compare
from prompt_tuning.training.identity import identity, require_same
from prompt_tuning.training.members import Member
from prompt_tuning.training.metric_log import MetricLog
from prompt_tuning.training.optimizers import rate_at
from prompt_tuning.training.requirements import require_usable
from prompt_tuning.training.settings import Run
from prompt_tuning.training.step import TrainState

_KEPT = ('best', 'stale', 'metrics', 'value', 'evaluated', 'loss', 'diverged', 'ended', 'ended_at')


@dataclasses.dataclass(frozen=True, repr=False)
class MemberRun(Run):
  """A finished member of runs that were trained together.

  Attributes:
    name: the member's.
    ended: why it ended: 'finished', or at which step it was stopped and why.
    loss: the training loss of its last line of figures, or None.
  """

  name: str = ''
  ended: str = ''
  loss: float | None = None

  __repr__ = Run.__repr__


class Running:
  """The mutable part of a member.

  Args:
    member: what it trains.
    model: the frozen model.
    loss: the loss to minimise.
    microbatches: as in `loop.train`.
    found: its `metadata` at the step at which it is resumed; None starts it.
    step: that step, or the model's.

  Attributes:
    warnings: about its targets.
    best: its best evaluation, or None.
    value: the objective at the last evaluation.
    loss: the training loss of the last line of figures.
    diverged: a text if a figure was not finite.
    ended: why it has ended, or None.
  """

  def __init__(self, member: Member, model: LanguageModel, loss: Loss, microbatches: int | None, *,
               found: Mapping[str, Any] | None, step: int):
    self.member, self._model, self._loss = member, model, loss
    self.layout, self.warnings = require_usable(
      model=model, method=member.method, task=member.task, split=member.split, lengths=member.lengths, loss=loss,
      train_steps=member.train_steps, evaluations=member.evaluations, microbatches=microbatches, packed=member.packed)
    self._own = identity(
      model=model, method=member.method, task=member.task, split=member.split, lengths=member.lengths,
      batch_size=member.batch_size, packed=member.packed, buckets=member.buckets, seed=member.seed,
      optimizer=member.optimizer, loss=loss, settings=member.settings)
    self._about = {**self._own, 'model_config': describe_model(model.module.config),
                   'made_for': model.facts.made_for()}
    self._evaluator = Evaluator(model, member.task, member.lengths, member.batch_size, loss, member.evaluations,
                                member.model_dir, member.split)
    self.best: dict[str, Any] | None = None
    self.metrics: dict[str, float] = {}
    self.stale, self.value, self.evaluated = 0, float('nan'), None
    self.loss = self.diverged = self.ended = self.ended_at = None
    if found is None:
      if (saved := run_files.read_newest(member.model_dir)) is not None:
        require_same(member.model_dir, saved[2]['run'], self._own)  # else its files would be lost
    else:
      require_same(member.model_dir, found['run'], self._own)
      for name in _KEPT:
        setattr(self, name, found[name])
    self._trained: Mapping[str, Any] | None = None
    self.log = None if self.ended else MetricLog(member.model_dir, start_step=step, total_steps=member.train_steps,
                                                 quiet=True)

  @property
  def objective(self) -> str | None:
    """The metric that `value` is, or None before the first evaluation."""
    return None if self.evaluated is None else compare(self.metrics, self.member.evaluations.objective, None)[0]

  def metadata(self, position: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Returns what a resumed member needs apart from its state; `position` is that in its data."""
    return {'run': self._own, 'data': position, **{name: getattr(self, name) for name in _KEPT}}

  def due(self, step: int, *, last: bool, log_period: int, saving_period: int) -> Due:
    """Returns what follows a step."""
    return due(step - self._model.step, last=last or step == self.member.train_steps, preempted=False,
               log_period=log_period, evaluation_period=self.member.evaluations.period, saving_period=saving_period)

  def take(self, sums: Sequence[Mapping[str, Any]], step: int, seconds: float) -> None:
    """Logs the sums of the steps up to this one, which took so many seconds; or finds that the member has diverged."""
    if self.diverged:
      return
    found = first_diverged(sums)
    if found is not None:
      self.diverged = f'diverged at step {step - len(sums) + found[0] + 1} ({found[1]})'
      return
    figures = means(sums)
    figures.update(**rate_at(self.member.optimizer, step - 1), steps_per_second=len(sums) / seconds,
                   examples_per_second=figures.pop('examples') / seconds,
                   tokens_per_second=figures.pop('tokens') / seconds, **memory.peak())
    self.loss = figures['loss']
    self.log.write(step, figures)

  def evaluate(self, state: TrainState, step: int, saver: Background, heed: Callable[[], None]) -> None:
    """Evaluates a step, unless it was evaluated before, and saves the best tensors."""
    if self.evaluated == step:
      return
    member = self.member
    self.metrics = self._evaluator(lambda name: member.method.condition_of(name, state.trained, self._model),
                                   self.layout, step, self.log, heed)
    self.evaluated = step
    name, self.value, better = compare(self.metrics, member.evaluations.objective, self.best)
    if not better:
      self.stale += 1
      return
    self.best, self.stale = {'step': step, 'objective': name, 'value': self.value, 'metrics': self.metrics}, 0
    saver.run(run_files.save_best, member.model_dir, jax.device_get(member.method.export(state.trained, self._model)),
              {**self._about, 'step': step, 'best': self.best})

  @property
  def out_of_patience(self) -> bool:
    """Whether the last evaluations were no better than the best."""
    patience = self.member.evaluations.patience
    return patience is not None and self.stale >= patience

  def save_last(self, state: TrainState, step: int, saver: Background) -> None:
    """Saves the tensors of a step for use without training."""
    if not self.diverged:
      saver.run(run_files.save_last, self.member.model_dir, step,
                self.member.method.export(state.trained, self._model), {**self._about, 'best': self.best})

  def end(self, reason: str, state: TrainState, step: int, position: Mapping[str, int], saver: Background,
          keep: int | None) -> None:
    """Ends the member, whose folder becomes that of an ordinary run: `train` resumes it, or says that it has ended."""
    self.ended, self.ended_at = reason, step
    held = jax.device_get(state)
    self._trained = trees.flatten(held.trained)
    if not self.diverged:
      saver.run(run_files.save, self.member.model_dir, step, trained=self._trained, optimizer=held.optimizer,
                metadata={'run': self._own, 'data': position, 'best': self.best, 'stale': self.stale,
                          'metrics': self.metrics, 'recent': []},
                about={**self._about, 'best': self.best}, keep=keep,
                exported=self.member.method.export(held.trained, self._model))
    self.log.close()

  def begin_files(self, state: TrainState) -> None:
    """Writes the files that describe the run."""
    folder = self.member.model_dir
    run_files.write_model_info(folder, self._model.params, trees.flatten(state.trained), self._model.step)
    for name, text in (self.member.files or {}).items():
      storage.write_bytes(storage.join(folder, name), text.encode())

  def finished(self) -> MemberRun:
    """Returns the ended run."""
    trained = self._trained
    if trained is None:  # it ended in an earlier process
      saved = run_files.read_newest(self.member.model_dir)
      trained = {} if saved is None else {name.removeprefix('trained/'): np.asarray(array)
                                          for name, array in saved[1].items() if name.startswith('trained/')}
    return MemberRun(self.member.model_dir, self.ended_at, trained, self.metrics, self.best, self.member.name,
                     self.ended, self.loss)
