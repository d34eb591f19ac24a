"""A run that distils a document, as a value."""

import dataclasses
from typing import Any

from prompt_tuning.checks import check_fields
from prompt_tuning.distilling.settings import Study
from prompt_tuning.runs.train_run import TrainRun

FIRST = ('first', 'sampled')
METHODS = ('prefix', 'prompt', 'residual', 'factored')
# Settings of training that a document decides -> what to do instead.
_OWN: dict[str, str] = {
  'split': 'The answers decide it.', 'validation': 'Give held_out=.', 'evaluation_data': 'Held-out answers are used.',
  'evaluation_split': 'Held-out answers are used.', 'new_layers': 'The model itself is the teacher.',
  'loss_steps': 'All held-out answers count.', 'compare': 'It is always compared.'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillRun:
  """A run that distils a document.

  Attributes:
    document: a file of text.
    questions: a file with the columns question and, optionally, answer; none lets the model ask.
    first: first starts from the document's first tokens, sampled from others.
    study: how questions are asked and answered.
    train: the training; its data is the teacher file in its own output.

  Raises:
    ValueError: a value cannot be used.
  """

  document: str
  train: TrainRun
  questions: str | None = None
  first: str = 'first'
  study: Study = Study()

  def __post_init__(self) -> None:
    check_fields(self)
    if self.first not in FIRST:
      raise ValueError(f'first={self.first!r} cannot be used: expected {" or ".join(FIRST)}.')
    if self.train.method.name not in METHODS:
      raise ValueError(f'method={self.train.method.name} cannot be used: a document is distilled into keys and values '
                       f'or a prompt. Give one of {", ".join(METHODS)}.')
    for name, advice in _OWN.items():
      value: Any = getattr(self.train, name)
      if value != self.defaults().get(name, getattr(TrainRun, name)):
        raise ValueError(f'{name}={value} cannot be used when a document is distilled. {advice}')

  @staticmethod
  def defaults() -> dict[str, Any]:
    """Returns the settings of training that have other defaults here."""
    return {'steps': 500, 'batch_size': 8, 'evaluation_examples': 0, 'compare': False, 'loss': 'distillation'}
