"""A run that predicts, as a value."""

import dataclasses
import os
from typing import ClassVar, Literal

from prompt_tuning.runs.base import setting
from prompt_tuning.runs.choice import plain
from prompt_tuning.runs.eval_run import Use


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class InferRun(Use):
  """A run that generates a prediction, or computes a score, for every row of a file or of a task's split.

  Attributes:
    data: a .jsonl, .tsv or .csv file, a text file with one input per line, or the name of a task.
    output: the file that is written.
    mode: predict; predict_with_aux adds the score of the prediction; score gives the log-likelihood of the targets.
    lines: what is written: rows are JSON objects, the columns and `prediction`; t5x is as T5X; id||text is plain text.
    marker: also write an empty file `OUTPUT.COMPLETED` at the end.
  """

  executor: ClassVar[str] = 'inferring'
  reads_text: ClassVar[bool] = True

  output: str | None = setting(None, 'output')
  mode: Literal['predict', 'predict_with_aux', 'score'] = setting('predict', 'output')
  lines: Literal['rows', 't5x', 'id||text'] = setting('rows', 'output')
  marker: bool = setting(False, 'output')

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.output is None:
      raise ValueError('output is missing. Give output=FILE.jsonl, the file that is written.')
    if os.path.realpath(self.output) == os.path.realpath(self.data.name):
      raise ValueError(f'output={self.output} is the file of the inputs, which would be overwritten. Give '
                       'another file.')
    if self.mode == 'score' and self.ensemble == 'vote':
      raise ValueError("ensemble='vote' cannot be used with mode='score': a vote has no probabilities. Use "
                       "ensemble='mean'.")
    if self.label_words is not None and (self.mode != 'predict' or self.lines == 'id||text'):
      raise ValueError(f'label_words={plain(self.label_words)} cannot be used with mode={self.mode!r} and '
                       f'lines={self.lines!r}: words are ranked to predict, and each has a score. Leave one of them '
                       'out.')
    if self.mode != 'predict' and self.lines == 'id||text':
      raise ValueError(f'lines={self.lines!r} cannot be used with mode={self.mode!r}, which gives more than a text. '
                       "Set mode='predict', or other lines.")

  @property
  def reads_lines(self) -> bool:
    """Whether the data is a text file with one input per line."""
    from prompt_tuning.files import storage

    name = self.data.name
    is_path = storage.is_remote(name) or os.path.isfile(name) or name.endswith('.txt') or '/' in name
    return is_path and not self.reads_table

  def file_settings(self) -> tuple[str, ...]:
    """Returns the settings that say how a file's rows become examples; a line fills a template with one column."""
    return ('template', 'cut') if self.reads_lines else super().file_settings()
