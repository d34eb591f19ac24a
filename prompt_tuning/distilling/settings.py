"""How a document is studied, as plain values."""

import dataclasses

from prompt_tuning.checks import check_fields
from prompt_tuning.names import require_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """How questions about a document are asked and answered.

  Attributes:
    count: questions that the model asks about the document, if none are given.
    chunk_length: about how many tokens of the document the model reads to ask a question.
    question_length: most tokens of a question that the model asks.
    answer_length: most tokens of an answer that the model gives, end token included.
    question_temperature: at which the model's questions are drawn.
    answer_temperature: at which its answers are drawn; 0 takes the likeliest token.
    question_template: what stands around a question, such as "Question: {question}\\nAnswer:"; none is the chat
      template, or this example if the model has none.
    context_length: most tokens of the document that the teacher reads at once; none is what the model's window has room
      for.
    top: K, the teacher's likeliest tokens that are kept for each target.
    held_out: the share of the questions that is kept for evaluation, at least one.

  Raises:
    ValueError: a value cannot be used.
  """

  count: int = 256
  chunk_length: int = 512
  question_length: int = 64
  answer_length: int = 128
  question_temperature: float = 1.0
  answer_temperature: float = 0.0
  question_template: str | None = None
  context_length: int | None = None
  top: int = 20
  held_out: float = 0.1

  def __post_init__(self) -> None:
    check_fields(self)
    for name, least in (('count', 2), ('chunk_length', 8), ('question_length', 1), ('answer_length', 1), ('top', 1)):
      require_number(name, getattr(self, name), least=least, whole=True)
    require_number('context_length', self.context_length, least=8, whole=True, none=True)
    require_number('question_temperature', self.question_temperature, least=0)
    require_number('answer_temperature', self.answer_temperature, least=0)
    require_number('held_out', self.held_out, above=0, below=1)
    if self.question_template is not None and self.question_template.count('{question}') != 1:
      raise ValueError(f'question_template={self.question_template!r:.60} cannot be used: expected a text with '
                       '{question} in it once.')
