"""A classification head, trained alone or together with any other method; in one file.

  logits = W h + b,  h the output of the (prompted) frozen encoder at its first position, or the mean over the tokens;
  φ = {W, b} ∪ the other method's tensors.

The head is the model's output layer, so its tensors have that layer's names, like retrained parameters. Its first
values are the model's, which `with_head` draws. A verbaliser (`with_verbaliser`) has no tensors: then φ is the other
method's, and the file says which words it was trained with.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from prompt_tuning import trees
from prompt_tuning.names import require_number
from prompt_tuning.rows.conditioning import Conditioning, Frozen
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.rows.text_layout import HEAD
from prompt_tuning.tuning.method import Method, combine
from prompt_tuning.tuning.multitask import MultitaskPrompt
from prompt_tuning.tuning.retrained import Retrained
from prompt_tuning.types import Array, Flat, Params


@dataclasses.dataclass(frozen=True)
class Headed(Method):
  """The method: a head, and perhaps a prompt, a prefix, a low-rank update or whatever else another method trains.

  Attributes:
    joined: the other method; None trains the head alone.
    head: what files say about the head.
    head_rate: the learning rate of the head, as a multiple of the run's; None makes it 0.03 at the default rate.

  Raises:
    ValueError: the rate is not above 0, the other method cannot have a head, or there is nothing to train.
  """

  learning_rate: ClassVar[float] = 0.03

  joined: Method | None = None
  head: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  head_rate: float | None = None

  def __post_init__(self) -> None:
    require_number('head_rate', self.head_rate, above=0, none=True)
    if isinstance(self.joined, Headed | MultitaskPrompt):
      raise ValueError(f'A head cannot be trained with {type(self.joined).__name__}. Use another method with it, such '
                       'as a prompt.')
    if self.joined is None and self._own is None:
      raise ValueError('A verbaliser has nothing to train. Train a prompt, a prefix or another method with it.')

  @property
  def _own(self) -> Retrained | None:
    """The method of the head's tensors; None for a verbaliser, which has none."""
    return None if self.head.get('words') else Retrained((HEAD,))

  def rate(self, model: Any) -> float:
    """Returns the rate of the other method, at most that of the head alone: BERT's prompts need less than T5's 0.3."""
    return min(self.joined.rate(model), self.learning_rate) if self.joined else self.learning_rate

  def layout(self) -> Layout:
    """Returns the layout of the other method."""
    return self.joined.layout() if self.joined else Layout()

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: the head's first values, and the tensors of the other method under the names that they have alone."""
    head = trees.flatten(self._own.initialise(key, model)) if self._own else {}
    own = trees.flatten(self.joined.initialise(key, model)) if self.joined else {}
    return trees.unflatten({**head, **own})

  def condition(self, trained: Params, model: Frozen) -> Conditioning:
    """Returns the conditioning of both."""
    head, own = _split(trees.flatten(trained))
    parts = [(self._own, self._own.condition(trees.unflatten(head), model))] if self._own else []
    if self.joined:
      parts.append((self.joined, self.joined.condition(trees.unflatten(own), model)))
    return combine(parts)

  def export(self, trained: Params, model: Frozen) -> Flat:
    """Returns the head, and what the other method exports."""
    head, own = _split(trees.flatten(trained))
    return {**head, **(self.joined.export(trees.unflatten(own), model) if self.joined else {})}

  def penalty(self, trained: Params) -> Array | None:
    """Returns the penalty of the other method, if it has one."""
    return self.joined.penalty(trees.unflatten(_split(trees.flatten(trained))[1])) if self.joined else None

  def rate_of(self, name: str) -> float:
    """Returns the multiple for the head, or that of the other method."""
    if not trees.matches(name, (HEAD,)):
      return self.joined.rate_of(name)
    if self.head_rate is not None:
      return self.head_rate
    return self.learning_rate / min(self.joined.learning_rate, self.learning_rate) if self.joined else 1.0

  def keep(self, before: Params, after: Params) -> Params:
    """Returns φ after a step; parts of the other method's may stay as they were."""
    if not self.joined:
      return after
    (_, old), (head, new) = _split(trees.flatten(before)), _split(trees.flatten(after))
    return trees.unflatten({**trees.flatten(self.joined.keep(trees.unflatten(old), trees.unflatten(new))), **head})

  def start(self, given: Flat, about: Mapping[str, Any], own: Flat) -> Flat:
    """Returns the first values from a file of both, or of one: the other then starts as usual."""
    (head, joined), (own_head, own_joined) = _split(given), _split(own)
    begun = self.joined.start(joined, about, own_joined) if self.joined and joined else (joined or own_joined)
    return {**(head or own_head), **begun}

  def describe(self) -> dict[str, Any]:
    """Returns the description of the other method, and of the head."""
    described = self.joined.describe() if self.joined else super().describe()
    return described | {'head': dict(self.head)}

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns False: the tensors of a file belong to the methods of the parts."""
    return False


def _split(tensors: Flat) -> tuple[Flat, Flat]:
  """Returns the tensors of the head, and those of the other method."""
  head = {name: array for name, array in tensors.items() if trees.matches(name, (HEAD,))}
  return head, {name: array for name, array in tensors.items() if name not in head}
