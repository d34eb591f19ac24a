"""What the teacher, the model with the document before it, answers, and how likely it finds each token of an answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.files import row_share
from prompt_tuning.data.tasks import Example
from prompt_tuning.distilling.questions import Row, batches, behind, sampler, shared
from prompt_tuning.distilling.reading import Reading
from prompt_tuning.distilling.settings import Study
from prompt_tuning.files import progress
from prompt_tuning.models.language_model import LanguageModel


def placed(model: LanguageModel, readings: Sequence[Reading], rows: Sequence[Row], *, batch_size: int) -> list[Row]:
  """Returns rows with 'part', the number of the part of the document after which the question is likeliest."""
  if len(readings) == 1:
    return [{**row, 'part': 0} for row in rows]
  scores, told = np.zeros((len(readings), len(rows))), 0
  for part, reading in enumerate(readings):
    whole = [reading.asked(row['question']) for row in rows]
    begin = reading.ids[:-1]  # its last token predicts the question's first
    for context, numbers in shared(model, begin, whole):
      cut = 0 if context is None else len(begin)
      for own in batches(numbers, batch_size):
        texts = [whole[i][cut:] for i in own]
        scores[part, own] = model.score([ids[:1] for ids in texts], [ids[1:] for ids in texts], context=context)
        told += len(own)
        progress.tell(told, len(readings) * len(rows))
  return [{**row, 'part': int(part)} for row, part in zip(rows, scores.argmax(axis=0), strict=True)]


def answered(model: LanguageModel, readings: Sequence[Reading], rows: Sequence[Row], study: Study, *,
             batch_size: int) -> list[Row]:
  """Returns rows with 'targets', the tokens of the answer, and 'end', the token that ends it, or None if it was cut.

  An answer that a row does not give is the model's, with the part of the document before the question.
  """
  found = [dict(row) for row in rows]
  for row in found:
    if 'answer' in row:
      row['targets'], row['end'] = readings[row['part']].answer(row['question'], row['answer'])
  for part, reading in enumerate(readings):
    own = [row for row in found if row['part'] == part and 'answer' not in row]
    with progress.part(sum('answer' in row for row in found), len(found)):
      predictions = [] if not own else behind(
        model, reading.ids, [reading.asked(row['question']) for row in own], sampler=sampler(study.answer_temperature),
        seeds=[row['seed'] for row in own], max_length=study.answer_length, batch_size=batch_size,
        stop=[reading.ends] * len(own))
    for row, each in zip(own, predictions, strict=True):
      ids = each.ids.tolist()
      row['answer'] = each.text
      row['targets'], row['end'] = (ids[:-1], ids[-1]) if each.ended == 'end' else (ids, None)
  return found


def scored(model: LanguageModel, readings: Sequence[Reading], rows: Sequence[Row], top: int, *,
           batch_size: int) -> list[Example]:
  """Returns the examples of a teacher file: what the student reads and predicts, and the teacher's probabilities."""
  found: list[Any] = [None] * len(rows)
  for part, reading in enumerate(readings):
    own = [i for i, row in enumerate(rows) if row['part'] == part]
    whole = [reading.asked(rows[i]['question']) for i in own]
    begin = reading.ids
    for context, numbers in shared(model, begin, whole):
      cut = 0 if context is None else len(begin)
      for each in batches(numbers, batch_size):
        scores = model.score([whole[n][cut:] for n in each], [targets_of(rows[own[n]]) for n in each],
                             context=context, per_token=True, top=top)
        for n, score in zip(each, scores, strict=True):
          found[own[n]] = _example(reading, rows[own[n]], score, model.eos_id)
        progress.tell(sum(each is not None for each in found), len(found))
  return found


def targets_of(row: Row) -> list[int]:
  """Returns the tokens that a row's answer consists of, its end token included."""
  return [*row['targets'], *([] if row['end'] is None else [row['end']])]


def held_out(rows: Sequence[Row], share: float) -> list[int]:
  """Returns the numbers of the rows that are kept for evaluation, which depend on the questions alone."""
  count = min(len(rows) - 1, max(1, round(share * len(rows))))
  return sorted(sorted(range(len(rows)), key=lambda i: row_share({'question': rows[i]['question']}))[:count])


def _example(reading: Reading, row: Row, score: Any, eos_id: int) -> Example:
  inputs, text = reading.plain(row['question']), lambda value: value if isinstance(value, str) else ' '.join(
    map(str, value))
  return {
    'inputs': np.asarray(inputs, np.int32), 'inputs_ends': inputs[-1] == eos_id,
    'targets': np.asarray(row['targets'], np.int32), 'targets_ends': row['end'] is not None,
    **({} if row['end'] is None else {'targets_end': row['end']}),
    'teacher_ids': np.asarray(score.top_ids, np.int32),
    'teacher_log_probs': np.asarray(score.top_log_probs, np.float32),
    'target_log_probs': np.asarray(score.log_probs, np.float32),
    'inputs_pretokenized': text(row['question']), 'targets_pretokenized': text(row['answer'])}
