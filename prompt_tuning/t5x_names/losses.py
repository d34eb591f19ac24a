"""`losses.…`: what to minimise instead of cross-entropy, as `models.EncoderDecoderModel.loss_fn`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from prompt_tuning import losses as library

__all__ = ['margin', 'pairwise_cosine', 'pairwise_distance']


@dataclasses.dataclass(frozen=True)
class ChosenLoss:
  """A loss that may need the model's vocabulary.

  Attributes:
    make: gets the vocabulary and returns the function.
    of: what it reads: 'logits' or 'hidden'.
  """

  make: Callable[[Any], library.LossFunction]
  of: str = 'logits'

  def into(self, loss: library.Loss, vocabulary: Any) -> library.Loss:
    """Returns a loss that minimises this and is otherwise as the given one."""
    return dataclasses.replace(loss, function=self.make(vocabulary), of=self.of)


def pairwise_cosine(of: str = 'logits') -> ChosenLoss:
  """Rows of one class shall point the same way: over pairs of rows of a batch, of logits or hidden states."""
  return ChosenLoss(lambda vocabulary: library.pairwise_cosine, of)


def pairwise_distance(of: str = 'logits') -> ChosenLoss:
  """Rows of one class shall be near: over pairs of rows of a batch, of logits or hidden states."""
  return ChosenLoss(lambda vocabulary: library.pairwise_distance, of)


def margin(label_words: Sequence[str], margin: float = 1.0) -> ChosenLoss:
  """The first token of the right label word shall lie above those of the others by a margin."""

  def make(vocabulary: Any) -> library.LossFunction:
    tokens = [list(vocabulary.encode(word)) for word in label_words]
    if not all(tokens):
      raise ValueError(f'losses.margin.label_words are {list(label_words)}, of which the vocabulary knows no token of '
                       f'{label_words[tokens.index([])]!r}. Give other words.')
    return functools.partial(library.margin, labels=tuple(ids[0] for ids in tokens), margin=margin)

  return ChosenLoss(make)
