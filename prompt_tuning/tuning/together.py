"""A prompt or a prefix, and a low-rank update, trained together: in one file, each with a learning rate of its own.

  logits = model_{θ + down · up}([p; embed(x)]),    φ = {p or keys and values, down, up}.

The update teaches the model, the prompt says what to do; a later prompt may be trained for the updated model. All rows
of a batch share an update, so for many tasks in one batch train prompts alone. See `prompt`, `prefix` and `low_rank`
for the papers of the parts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning import trees
from prompt_tuning.names import nearest, require_number
from prompt_tuning.rows.conditioning import Conditioning, Frozen
from prompt_tuning.rows.layouts import Layout
from prompt_tuning.tuning.initialisers import from_sample_of_embeddings
from prompt_tuning.tuning.low_rank import LowRank
from prompt_tuning.tuning.method import Method, combine
from prompt_tuning.tuning.prefix import Prefix
from prompt_tuning.tuning.prompt import PromptSettings, PromptTuning
from prompt_tuning.types import Array, Flat, Params

_JOINED = {'prompt': PromptSettings, 'prefix': Prefix}


@dataclasses.dataclass(frozen=True)
class TogetherSettings(PromptSettings):
  """A prompt or a prefix with a low-rank update as plain values: the settings of both parts.

  Attributes:
    joined: what is trained with the low-rank update, prompt or prefix.
    init: the first values of the prompt or prefix; none is their method's own.
    attentions: see the prefix.
    hidden: see the prefix.
    width: see the prefix.
    text: see the prefix.
    rank: r, of the low-rank update.
    patterns: the names of the matrices that are updated.
    low_rank_rate: the learning rate of the low-rank update, as a multiple of the run's; none is the one that makes it
      0.003 at the default rate.

  Raises:
    ValueError: a value cannot be used.
  """

  joined: str = 'prompt'
  init: Any = None
  attentions: Sequence[str] = ()
  hidden: int = 0
  width: int = 0
  text: str | None = None
  rank: int = 1
  patterns: Sequence[str] | str = ('.*attention/.*/kernel',)
  low_rank_rate: float | None = None

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.joined not in _JOINED:
      raise ValueError(f'joined={self.joined!r} is unknown.{nearest(self.joined, _JOINED)} Choose one of '
                       f'{", ".join(_JOINED)}.')
    (other,) = _JOINED.keys() - {self.joined}
    alien = set(self._of(other)) - set(self._of(self.joined))
    wrong = [field for field in dataclasses.fields(self)
             if field.name in alien and getattr(self, field.name) != field.default]
    if wrong:
      raise ValueError(f'{wrong[0].name}={getattr(self, wrong[0].name)} cannot be used with joined={self.joined}: it '
                       f'is a setting of a {other}. Leave it out, or give joined={other}.')

  def _of(self, joined: str) -> dict[str, Any]:
    """Returns the settings of one kind of what is joined."""
    own = {field.name for field in dataclasses.fields(self)}
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(_JOINED[joined]) if field.name in own}

  def build(self, model: Any) -> 'Together':
    """Returns the method for a model; `init` must be a function or None by then."""
    given = self._of(self.joined)
    if self.init is None:
      del given['init']
      if self.joined == 'prompt':
        rows = model.embeddings()
        given['init'] = from_sample_of_embeddings(rows, min(5000, len(rows)))
    joined = _JOINED[self.joined](**given).build(model)
    rate = LowRank.learning_rate / joined.rate(model) if self.low_rank_rate is None else self.low_rank_rate
    return Together(joined, LowRank(self.rank, self.patterns), rate)


@dataclasses.dataclass(frozen=True)
class Together(Method):
  """The method: a prompt or a prefix, and a low-rank update.

  Attributes:
    joined: the method of the prompt or prefix.
    update: the low-rank update.
    low_rank_rate: the learning rate of the update, as a multiple of the run's: 0.003 beside 0.3.

  Raises:
    ValueError: a part is of another method, or the rate is not above 0.
  """

  Settings = TogetherSettings

  joined: PromptTuning | Prefix
  update: LowRank = LowRank()
  low_rank_rate: float = 0.01

  def __post_init__(self) -> None:
    if not isinstance(self.update, LowRank) or isinstance(self.joined, LowRank):
      raise ValueError(f'Together got joined={self.joined} and update={self.update}, but it trains a prompt or a '
                       'prefix with a low-rank update. Give a method that sets no parameters first, and a LowRank '
                       'second.')
    require_number('low_rank_rate', self.low_rank_rate, above=0)

  def rate(self, model: Any) -> float:
    """Returns the rate of the prompt or prefix."""
    return self.joined.rate(model)

  def layout(self) -> Layout:
    """Returns the layout of the prompt or prefix."""
    return self.joined.layout()

  def initialise(self, key: Array, model: Frozen) -> Params:
    """Returns φ: the tensors of both parts, under the names that they have alone.

    Raises:
      ValueError: a part does not fit the model.
    """
    parts = self.joined.initialise(key, model), self.update.initialise(key, model)
    return trees.unflatten({**trees.flatten(parts[0]), **trees.flatten(parts[1])})

  def condition(self, trained: Params, model: Frozen) -> Conditioning:
    """Returns the conditioning of both parts."""
    joined, update = map(trees.unflatten, _split(trees.flatten(trained)))
    return combine([(self.joined, self.joined.condition(joined, model)),
                    (self.update, self.update.condition(update, model))])

  def export(self, trained: Params, model: Frozen) -> Flat:
    """Returns what both parts export."""
    joined, update = _split(trees.flatten(trained))
    return {**self.joined.export(trees.unflatten(joined), model), **update}

  def penalty(self, trained: Params) -> Array | None:
    """Returns the penalty of the prompt, if it has one."""
    return self.joined.penalty(trees.unflatten(_split(trees.flatten(trained))[0]))

  def rate_of(self, name: str) -> float:
    """Returns `low_rank_rate` for the update."""
    return self.low_rank_rate if LowRank.owns(name) else self.joined.rate_of(name)

  def keep(self, before: Params, after: Params) -> Params:
    """Returns φ after a step; a part of the prefix may stay as it was."""
    (old, _), (new, update) = _split(trees.flatten(before)), _split(trees.flatten(after))
    kept = self.joined.keep(trees.unflatten(old), trees.unflatten(new))
    return trees.unflatten({**trees.flatten(kept), **update})

  def start(self, given: Flat, about: Mapping[str, Any], own: Flat) -> Flat:
    """Returns the first values from a file of both parts, or of one: the other then starts as usual."""
    (joined, update), (own_joined, own_update) = _split(given), _split(own)
    return {**(self.joined.start(joined, about, own_joined) if joined else own_joined), **(update or own_update)}

  def describe(self) -> dict[str, Any]:
    """Returns the description of the prompt or prefix, and its method."""
    described = self.joined.describe()
    return described | {'method': type(self).__name__, 'joined': described['method']}

  @classmethod
  def owns(cls, name: str) -> bool:
    """Returns False: the tensors of a file belong to the methods of the parts."""
    return False


def _split(tensors: Flat) -> tuple[Flat, Flat]:
  """Returns the tensors of the prompt or prefix, and those of the low-rank update."""
  updates = {name: array for name, array in tensors.items() if LowRank.owns(name)}
  return {name: array for name, array in tensors.items() if name not in updates}, updates
