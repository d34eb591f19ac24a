"""Ensembles of prompts for one frozen model (Lester, Al-Rfou and Constant 2021, section 5).

  mean:  log p(y_t | x, y_<t) = log (1/M Σ_m p_m(y_t | x, y_<t))

chooses each token, which all M members read: one generation, from M rows for each input. With `vote`, each member
generates by itself and the most frequent of equal answers wins. Training M prompts from several seeds costs M runs; use
takes M rows of a batch, not M models.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from prompt_tuning.models.row_prompts import Use, collect_prompts, handed
from prompt_tuning.rows.conditioning import Conditioning

KINDS = ('mean', 'vote')


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
  """Several prompts whose predictions are combined, in the place of one.

  Attributes:
    members: M prompts, each in a form that `language_model` describes, or None for the frozen model alone. Their kinds
      and lengths may differ.
    kind: 'mean' of the members' probabilities at each token, or 'vote': the answer that most members give; of equally
      frequent ones, that of the earliest member.

  Raises:
    ValueError: there is no member, or the kind is unknown.
  """

  members: Sequence[Any]
  kind: str = 'mean'

  def __post_init__(self) -> None:
    if isinstance(self.members, str | os.PathLike | Mapping) or not hasattr(self.members, '__iter__'):
      raise ValueError(f'members={self.members!r:.80} cannot be used: expected a list of prompts.')
    object.__setattr__(self, 'members', tuple(self.members))
    if not self.members or any(isinstance(each, Ensemble) for each in self.members):
      found = 'an ensemble among them' if self.members else 'none'
      raise ValueError(f'The members of an ensemble are {found}. Give a list of at least one prompt.')
    if self.kind not in KINDS:
      raise ValueError(f'kind={self.kind!r} cannot be used: expected {" or ".join(KINDS)}.')

  def __repr__(self) -> str:
    return f'Ensemble({len(self.members)} prompts, kind={self.kind!r})'

  def require_mean(self, what: str) -> None:
    """Raises ValueError if the members vote, but `what` needs probabilities of the whole."""
    if self.kind != 'mean':
      raise ValueError(f"kind='vote' cannot be used for {what}: a vote has whole answers and no probabilities of its "
                       "own. Use kind='mean'.")

  def collect(self, model: Any) -> tuple[list[Use], Conditioning]:
    """Returns what each of the M rows of an input uses, and the conditioning of a batch of such rows.

    Raises:
      ValueError: a member does not fit the model, or they cannot share a batch.
    """
    for number, member in enumerate(self.members):
      try:
        handed(member, model)
      except ValueError as error:
        raise ValueError(f'members[{number}] of the ensemble cannot be used. {error}') from error
    uses, conditioning = collect_prompts(list(self.members), len(self.members), model)
    return uses, dataclasses.replace(conditioning, members=len(self.members))


def ranked(answers: Iterable[Any], key: Callable[[Any], Hashable]) -> list[Any]:
  """Returns the first of all answers that are equal by `key`, the most frequent first; of these, the earliest."""
  first: dict[Hashable, Any] = {}
  counts = collections.Counter(map(key, answers := list(answers)))
  for answer in answers:
    first.setdefault(key(answer), answer)
  return sorted(first.values(), key=lambda answer: -counts[key(answer)])


class Votes:
  """The answers that the members of an ensemble elect, with the interface of `predictions.BeamAnswers`.

  Args:
    members: functions that begin each member's answers to the same inputs.
  """

  def __init__(self, members: Iterable[Callable[[], Any]]):
    self._members, self._found = list(members), []

  def finish(self) -> 'Votes':
    """Generates the answers of one member after the other."""
    self._found = [begin().finish().predictions() for begin in self._members]
    return self

  def predictions(self) -> list[list[Any]]:
    """Returns the different answers to each input, that of most votes last; a member votes for its best one."""
    return [ranked([found[-1] for found in each], _compared)[::-1] for each in zip(*self._found, strict=True)]


def _compared(answer: Any) -> Hashable:
  """Returns what makes two answers equal: the text, or the ids of a model without vocabulary."""
  return tuple(answer.ids.tolist()) if answer.text is None else answer.text
