"""The training loss: its function, the model output that it reads, and its normalisation."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from prompt_tuning.losses.chunks import sum_at_targets
from prompt_tuning.losses.cross_entropy import cross_entropy
from prompt_tuning.names import require_number
from prompt_tuning.rows.layouts import target_rows
from prompt_tuning.types import Array, Batch

LossFunction = Callable[..., tuple[Array, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class Loss:
  """The training loss: by default cross-entropy with T5X's settings.

  Attributes:
    z_loss: pulls the log of the softmax's sum towards 0. Used by cross-entropy only.
    label_smoothing: share of probability given to all other tokens. Used by cross-entropy only.
    normalizing_factor: divisor of the sum: None (no division), a number, or 'tokens' for the sum of weights.
    function: `(outputs, targets, weights, *fields) -> (sum, sums)` as in this package, with `functools.partial` for its
      other arguments; None means cross-entropy.
    of: the model output that the loss reads: 'logits' or, for a loss that compares rows, 'hidden', the output of the
      last norm.

  Raises:
    ValueError: a value is not valid.
  """

  z_loss: float = 1e-4
  label_smoothing: float = 0.0
  normalizing_factor: float | str | None = None
  function: LossFunction | None = None
  of: str = 'logits'

  def __post_init__(self) -> None:
    require_number('z_loss', self.z_loss, least=0)
    require_number('label_smoothing', self.label_smoothing, least=0, below=1)
    factor = self.normalizing_factor
    if factor not in (None, 'tokens') and (isinstance(factor, str) or factor <= 0):
      raise ValueError(f'The loss got normalizing_factor={factor!r}. Use None, a number above 0, or "tokens".')
    if self.of not in ('logits', 'hidden'):
      raise ValueError(f'The loss got of={self.of!r}. Use "logits" or "hidden".')
    if self.of == 'hidden' and not self.over_pairs:
      raise ValueError(f'The loss {self.name} needs logits, but got of="hidden". Use of="logits", or a loss that '
                       'compares rows, such as pairwise_cosine.')

  def __call__(self, hidden: Array, batch: Batch,
               project: Callable[[Array], Array]) -> tuple[Array, dict[str, Array]]:
    """Returns the sum [] to minimise, and sums to report.

    Args:
      hidden: [B, T, D], the output of the last norm.
      batch: the model's.
      project: hidden states -> logits [B, T, V].
    """
    return self._sums(self._whole, hidden, batch, project)

  def of_rows(self, hidden: Array, batch: Batch,
              project: Callable[[Array], Array]) -> tuple[Array, dict[str, Array]]:
    """Returns the sums of each row, [B], of a loss that compares no rows; the arguments are those of `__call__`."""
    of_row = lambda *arrays: self._whole(*(array[None] for array in arrays))
    return self._sums(jax.vmap(of_row), hidden, batch, project)

  @property
  def _whole(self) -> LossFunction:
    return self.function or functools.partial(cross_entropy, z_loss=self.z_loss, label_smoothing=self.label_smoothing)

  def _sums(self, function: LossFunction, hidden: Array, batch: Batch,
            project: Callable[[Array], Array]) -> tuple[Array, dict[str, Array]]:
    arrays = self._read(batch)
    if self.of == 'hidden':
      return function(hidden, *arrays)
    if getattr(self._plain, 'over_positions', False):
      _, weights, *_ = arrays
      return sum_at_targets(function, project, hidden, weights, *arrays)
    return function(project(hidden), *arrays)

  def _read(self, batch: Batch) -> list[Array]:
    """Returns what the function reads of a batch: targets, weights and its fields."""
    rows = target_rows(batch)
    missing = next((name for name in self.fields if name not in rows), None)
    if missing is not None:
      raise ValueError(f'The loss {self.name} reads {", ".join(self.fields)} of every example, but the batch has no '
                       f'{missing}. Give the batches fields=loss.fields, and examples that have them.')
    return [rows[name] for name in ('targets', 'loss_weights', *self.fields)]

  def scale(self, weights: Array) -> Array:
    """Returns the factor for the summed loss and gradient, given the sum of weights."""
    if self.normalizing_factor == 'tokens':
      return 1.0 / jnp.where(weights > 0, weights, 1.0)
    return jnp.asarray(1.0 / (self.normalizing_factor or 1.0))

  def require_whole_batches(self, microbatches: int | None, packed: bool = False) -> None:
    """Raises ValueError if the loss compares rows, but these are split into microbatches or packed."""
    if self.over_pairs and (packed or (microbatches or 1) > 1):
      found = 'rows hold several examples' if packed else f'the batch is split into {microbatches} microbatches'
      raise ValueError(f'The loss {self.name} compares all rows of a batch, but {found}. Set num_microbatches=1 '
                       'and pack=False; a smaller batch needs less memory.')

  @property
  def checks(self) -> bool:
    """Whether the function has a `check` on the host."""
    return hasattr(self._plain, 'check')

  def check(self, batch: Batch) -> None:
    """Raises ValueError if the targets of a batch on the host are not valid for the function."""
    if self.checks:
      self._plain.check(*self._read(batch), **getattr(self.function, 'keywords', {}))

  @property
  def fields(self) -> tuple[str, ...]:
    """Further fields of an example's targets that the function reads, by name."""
    return tuple(getattr(self._plain, 'fields', ()))

  @property
  def _plain(self) -> LossFunction:
    return getattr(self.function or cross_entropy, 'func', self.function or cross_entropy)  # of a functools.partial

  @property
  def over_pairs(self) -> bool:
    """Whether the function compares rows and therefore needs the whole batch."""
    return getattr(self._plain, 'over_pairs', False)

  @property
  def name(self) -> str:
    """The function's name."""
    return self._plain.__name__


def averages(sums: Mapping[str, Any]) -> dict[str, float]:
  """Returns the averages over target tokens, by their weights, from a step's sums: loss, its parts, token accuracy.

  Only cross-entropy has the two parts, and only distillation 'divergence', from the teacher; 'token_accuracy', the
  share of the given targets' tokens that the model predicts (0 to 1), is absent if the sums lack 'correct'. A task's
  'accuracy' is that of whole predictions, in percent.
  """
  weights = float(sums['weights']) or 1.0
  loss = float(sums['loss'])
  found = {'loss': loss / weights}
  if 'z_loss' in sums:
    z_loss = float(sums['z_loss'])
    found |= {'cross_ent_loss': (loss - z_loss) / weights, 'z_loss': z_loss / weights}
  if 'entropy' in sums:
    found['divergence'] = (loss - float(sums['entropy'])) / weights
  if 'correct' in sums:
    found['token_accuracy'] = float(sums['correct']) / weights
  return found
