"""What a step minimises: a loss, what it reads of the model, and what it is divided by."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from prompt_tuning.losses.cross_entropy import cross_entropy
from prompt_tuning.rows.layouts import target_rows
from prompt_tuning.types import Array, Batch

LossFunction = Callable[..., tuple[Array, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class Loss:
  """What is minimised: cross-entropy as T5X sets it, unless another function is given.

  Attributes:
    z_loss: pulls the log of the softmax's sum towards 0. Of cross-entropy, as `label_smoothing` is.
    label_smoothing: share of probability given to all other tokens.
    normalizing_factor: what the sum is divided by: None (nothing), a number, or 'tokens' for the sum of weights.
    function: `(outputs, targets, weights) -> (sum, sums)` as in this package, with `functools.partial` for what else it
      takes; None is cross-entropy.
    of: what it reads, 'logits' or, where it compares rows, 'hidden': the output of the last norm.

  Raises:
    ValueError: a value is not among these.
  """

  z_loss: float = 1e-4
  label_smoothing: float = 0.0
  normalizing_factor: float | str | None = None
  function: LossFunction | None = None
  of: str = 'logits'

  def __post_init__(self) -> None:
    factor = self.normalizing_factor
    if factor not in (None, 'tokens') and (isinstance(factor, str) or factor <= 0):
      raise ValueError(f'The loss normalizing factor is {factor!r}. Give None, a number above 0, or "tokens".')
    if self.of not in ('logits', 'hidden'):
      raise ValueError(f'The loss shall read {self.of!r} of the model. Choose logits or hidden.')
    if self.of == 'hidden' and not self.over_pairs:
      raise ValueError(f'The loss {self.name} reads words, but hidden states have none. Choose of="logits", or a loss '
                       'that compares rows, such as pairwise_cosine.')

  def __call__(self, outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Returns the sum [] that is minimised and sums to report, given outputs [B, T, V] or [B, T, D]."""
    rows = target_rows(batch)
    targets, weights = rows['targets'], rows['loss_weights']
    if self.function is None:
      return cross_entropy(outputs, targets, weights, z_loss=self.z_loss, label_smoothing=self.label_smoothing)
    return self.function(outputs, targets, weights)

  def scale(self, weights: Array) -> Array:
    """Returns what the summed loss and gradient are multiplied by, given the sum of weights."""
    if self.normalizing_factor == 'tokens':
      return 1.0 / jnp.maximum(weights, 1.0)
    return jnp.asarray(1.0 / (self.normalizing_factor or 1.0))

  def require_whole_batches(self, microbatches: int | None, packed: bool = False) -> None:
    """Raises ValueError where the loss compares rows that would not be together, or rows hold several examples."""
    if self.over_pairs and (packed or (microbatches or 1) > 1):
      found = 'rows hold several examples' if packed else f'the batch is run in {microbatches} parts'
      raise ValueError(f'The loss {self.name} compares all rows of a batch, but {found}. Set num_microbatches to 1 '
                       'and pack to False; a smaller batch needs less memory.')

  @property
  def checks(self) -> bool:
    """Whether the function has something to check on the host."""
    return hasattr(self._plain, 'check')

  def check(self, batch: Batch) -> None:
    """Raises ValueError where the targets of a batch on the host do not suit the function."""
    if self.checks:
      rows = target_rows(batch)
      self._plain.check(rows['targets'], rows['loss_weights'], **getattr(self.function, 'keywords', {}))

  @property
  def _plain(self) -> LossFunction:
    return getattr(self.function or cross_entropy, 'func', self.function or cross_entropy)  # of a functools.partial

  @property
  def over_pairs(self) -> bool:
    """Whether the function compares rows, and so needs all of a batch."""
    return getattr(self._plain, 'over_pairs', False)

  @property
  def name(self) -> str:
    """What the function is called."""
    return self._plain.__name__


def averages(sums: Mapping[str, Any]) -> dict[str, float]:
  """Returns what people read, of a step's sums: loss, its two parts and accuracy for each target token.

  A loss that is no cross-entropy has no parts, and accuracy only if it counts what is 'correct'.
  """
  weights = max(float(sums['weights']), 1.0)
  loss = float(sums['loss'])
  found = {'loss': loss / weights}
  if 'z_loss' in sums:
    z_loss = float(sums['z_loss'])
    found |= {'cross_ent_loss': (loss - z_loss) / weights, 'z_loss': z_loss / weights}
  if 'correct' in sums:
    found['accuracy'] = float(sums['correct']) / weights
  return found
