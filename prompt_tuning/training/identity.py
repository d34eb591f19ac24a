"""What decides what a run learns: saved with its state, and compared before the run is resumed."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import optax

from prompt_tuning.data.digest import digest
from prompt_tuning.data.tasks import Mixture, Task
from prompt_tuning.files import hub
from prompt_tuning.losses import Loss
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.training.optimizers import Optimizer, rate_at
from prompt_tuning.tuning.method import Method

_STEPS = (0, 1, 10, 100, 1000, 10_000)  # of a run, at which learning rates are compared
# What changes if the learning rate depends on the number of steps.
_OF_MORE_STEPS = ('steps', 'total_steps', 'decay_steps', 'rates')
# What runs of earlier versions left out.
_ABSENT: Mapping[str, Any] = {'buckets': None, 'loss': Loss().name}
_WORDS = {'examples': 'the training examples (digest)', 'weights': "the frozen model's weights (digest)",
          'rates': f'the learning rates of steps {", ".join(map(str, _STEPS))}'}


def identity(*, model: LanguageModel, method: Method, task: Task | Mixture, split: str, lengths: Mapping[str, int],
             batch_size: int, packed: bool, buckets: Sequence[int] | None, seed: int,
             optimizer: Optimizer | optax.GradientTransformation, loss: Loss,
             settings: Mapping[str, Any] | None) -> dict[str, Any]:
  """Returns what decides what a run learns, as plain values; the arguments are those of `loop.train`."""
  rates = [rate_at(optimizer, model.step + step).get('learning_rate') for step in _STEPS]
  return {
    'model': hub.id_of(model.path) or os.path.basename(os.path.normpath(model.path)), 'weights': model.weights_digest,
    'dropout_rate': getattr(model.module.config, 'dropout_rate', 0.0), 'start_step': model.step,
    'task': task.name, 'split': split, 'examples': digest(task, split, loss.fields), **method.describe(),
    'batch_size': batch_size,
    'lengths': dict(lengths), 'packed': packed, 'buckets': None if buckets is None else list(buckets), 'seed': seed,
    'optimizer': type(optimizer).__name__, 'optimizer_settings': _plain_fields(optimizer), 'rates': rates,
    'loss': loss.name, 'loss_settings': _plain_fields(loss),
    **({} if settings is None else {'settings': settings})}


def require_same(folder: str, saved: Mapping[str, Any], wanted: Mapping[str, Any], *, extend: bool = False) -> None:
  """Compares a saved run with the run that would resume it; what a run of an earlier version did not save is left out.

  Args:
    folder: the run's folder, for the message.
    saved: its `identity` then.
    wanted: the identity now.
    extend: the number of steps may differ, even if the learning rate depends on it.

  Raises:
    ValueError: they differ; the message shows the old and the new values.
  """
  wanted = json.loads(json.dumps(wanted))
  saved = {**_ABSENT, **saved}
  pairs = {name: (saved[name], value) for name, value in wanted.items() if name in saved and name != 'settings'}
  then = saved.get('settings') or {}
  pairs |= {name: (then[name], value) for name, value in wanted.get('settings', {}).items()
            if name in then and name != 'seed'}  # which may have been drawn
  changed = {name: each for name, each in pairs.items() if not _same(*each) and not (extend and name in _OF_MORE_STEPS)}
  if not changed:
    return
  more = changed.keys() <= set(_OF_MORE_STEPS)
  if len(changed) > 1:
    changed.pop('rates', None)  # which follow from the other settings
  advice = ('The learning rate depends on the number of steps. Choose another folder; or go on all the same, with the '
            'new learning rates from here, by extend=True.' if more else
            'Choose another folder, or the settings and files with which that run was started.')
  shown = '; '.join(f'{_WORDS.get(name, name)}: {old!r} there, {new!r} here' for name, (old, new) in changed.items())
  raise ValueError(f'model_dir={folder} holds another run ({shown}). {advice}')


def _same(old: Any, new: Any) -> bool:
  if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
    return all(map(_same, old, new))
  if isinstance(old, float) and isinstance(new, float | int):
    return math.isclose(old, new, rel_tol=1e-6, abs_tol=1e-12)  # learning rates are computed in float32
  return old == new


def _plain_fields(thing: Any) -> dict[str, Any]:
  """Returns the fields of a dataclass that are plain values."""
  fields = dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ()
  found = {field.name: getattr(thing, field.name) for field in fields}
  return {name: value for name, value in found.items()
          if name != 'learning_rate' and isinstance(value, bool | int | float | str | None)}
