"""Questions about a document: a user's own, or the model's (self-study).

The model reads a part of the document and asks a question about it. What it is asked for varies, so that questions do.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from prompt_tuning.data import files
from prompt_tuning.data.vocabulary import require_whole
from prompt_tuning.decoding.samplers import Greedy, Sampler, Sampling
from prompt_tuning.distilling.reading import Reading, Text, pieces
from prompt_tuning.distilling.settings import Study
from prompt_tuning.files import progress
from prompt_tuning.models.language_model import LanguageModel

Row = dict[str, Any]  # 'question', 'seed', 'part' (of the document), and 'answer' if it is given
_COLUMNS = ('question', 'answer')
INSTRUCTIONS = (
  'Ask a question about a detail of the text above.',
  'Ask for a summary of the text above, or of a part of it.',
  'Ask for a comparison of two statements of the text above.',
  'Ask how something that the text above describes is used.',
  'Write a quiz question that only a reader of the text above can answer.',
)


def given(questions: Any, seed: int) -> list[Row]:
  """Returns a user's questions as rows without 'part'.

  Args:
    questions: a file with the columns `question` and, optionally, `answer`; or a table in memory, a list of texts, or
      one of pairs of a question and its answer. Questions and answers may be token ids.
    seed: of answers.

  Raises:
    ValueError: a row has no question, or something else; the message says which.
  """
  if isinstance(questions, list | tuple) and all(isinstance(each, str) for each in questions):
    questions = [{'question': each} for each in questions]
  rows, unread = [], set()
  for where, columns in files.read_rows(questions):
    if columns.keys() == {'inputs', 'targets'}:  # a pair
      columns = {'question': columns['inputs'], 'answer': columns['targets']}
    found = {name: _text(f'{where}: {name}', columns[name]) for name in _COLUMNS if not _is_empty(columns.get(name))}
    if 'question' not in found:
      raise ValueError(f'{where}: there is no question, but {", ".join(columns) or "nothing"}. Write '
                       '{"question": "…"}, with "answer" if it is known.')
    unread |= columns.keys() - set(_COLUMNS)
    rows.append({**found, 'seed': seed_of(seed, len(rows))})
  if unread:
    logging.warning('Of the questions, the columns %s are not read: only %s are.', ', '.join(sorted(unread)),
                    ' and '.join(_COLUMNS))
  if len(rows) < 2:
    raise ValueError(f'There is only {len(rows)} question, expected two or more: one of them is kept for evaluation. '
                     'Give further questions.')
  return rows


def ask(model: LanguageModel, parts: Sequence[Text], study: Study, *, seed: int, batch_size: int,
        say: Callable[[str], None]) -> list[Row]:
  """Returns questions that the model asks about the parts of a document.

  Args:
    model: the frozen model.
    parts: what the teacher reads at once: the whole document, or parts of it.
    study: what is asked for.
    seed: of the questions, and of their answers.
    batch_size: questions that are generated together.
    say: prints a line.

  Raises:
    ValueError: too few questions have a word.
  """
  chunks = [(i, chunk) for i, part in enumerate(parts)
            for chunk in pieces(part, study.chunk_length, model.vocabulary)]
  readings = [Reading(model, chunk, study.question_template) for _, chunk in chunks]
  rows: list[Row] = []
  for number in range(study.count):
    chunk = number % len(chunks)
    kind = (number // len(chunks)) % len(INSTRUCTIONS)
    rows.append({'part': chunks[chunk][0], 'seed': seed_of(seed, number), 'chunk': chunk, 'kind': kind})
  for chunk, reading in enumerate(readings):
    own = [row for row in rows if row['chunk'] == chunk]
    asked = [reading.request(INSTRUCTIONS[row['kind']]) for row in own]
    with progress.part(sum('question' in row for row in rows), len(rows)):
      found = behind(model, reading.ids, [ids for ids, _ in asked], sampler=sampler(study.question_temperature),
                     seeds=[row['seed'] for row in own], max_length=study.question_length,
                     stop=[stop for _, stop in asked], batch_size=batch_size)
    for row, each in zip(own, found, strict=True):
      row['question'] = each.text.strip()
  kept = [{name: row[name] for name in ('question', 'part', 'seed')} for row in rows if row['question']]
  if len(kept) < len(rows):
    say(f'Warning: {len(rows) - len(kept)} of the {len(rows)} questions that the model asked are empty, and left out.')
  if len(kept) < 2:
    raise ValueError(f'The model asked {len(kept)} questions with a word, expected two or more. Give questions=, or a '
                     'larger count= or question_length=.')
  return kept


def behind(model: LanguageModel, begin: Sequence[int], rows: Sequence[Sequence[int]], *, sampler: Sampler,
           seeds: Sequence[int], max_length: int, stop: Sequence[Sequence[str]] | Sequence[str] = (),
           batch_size: int) -> list[Any]:
  """Returns the prediction for each row; what all rows begin with is read once.

  Args:
    model: the frozen model.
    begin: the tokens that rows begin with.
    rows: whole rows.
    sampler: chooses the tokens.
    seeds: of each row.
    max_length: most generated tokens.
    stop: see `LanguageModel.predict`.
    batch_size: rows that are run together.
  """
  found: list[Any] = [None] * len(rows)
  for context, numbers in shared(model, begin, rows):
    cut = 0 if context is None else len(begin)
    for own in batches(numbers, batch_size):
      predictions = model.predict([rows[i][cut:] for i in own], sampler=sampler, seed=[seeds[i] for i in own],
                                  max_length=max_length, batch_size=batch_size, return_scores=True, context=context,
                                  stop=[stop[i] for i in own] if any(stop) else ())
      for i, each in zip(own, predictions, strict=True):
        found[i] = each
      progress.tell(sum(each is not None for each in found), len(rows))
  return found


def batches(numbers: Sequence[int], size: int) -> Iterator[list[int]]:
  """Yields the numbers in groups of a size; the last may be smaller."""
  for first in range(0, len(numbers), size):
    yield list(numbers[first:first + size])


def shared(model: LanguageModel, begin: Sequence[int],
           rows: Sequence[Sequence[int]]) -> Iterable[tuple[Any, list[int]]]:
  """Yields the cached context of the tokens that rows begin with, and the numbers of these rows; None for all others.

  A token may span the end of a text and the start of a question: such a row is read as a whole.
  """
  begins = [list(row[:len(begin)]) == list(begin) and len(row) > len(begin) for row in rows]
  if any(begins) and begin:
    yield model.read([list(begin)]), [i for i, same in enumerate(begins) if same]
  others = [i for i, same in enumerate(begins) if not (same and begin)]
  if others:
    yield None, others


def sampler(temperature: float) -> Sampler:
  """Returns what draws at a temperature; at 0, what takes the likeliest token."""
  return Sampling(temperature=temperature) if temperature else Greedy()


def seed_of(seed: int, number: int) -> int:
  """Returns the seed of a row, which depends on no other row."""
  return zlib.crc32(f'{seed} {number}'.encode())


def _is_empty(value: Any) -> bool:
  """Returns True for what stands for no text: None, no ids, or a text of blanks."""
  return value is None or (not value.strip() if isinstance(value, str) else np.size(value) == 0)


def _text(where: str, value: Any) -> Text:
  """Returns a text, or token ids as a list. Raises ValueError if a value is neither."""
  if isinstance(value, str):
    require_whole(value, f'{where}: ')
    return value
  ids = value.tolist() if hasattr(value, 'tolist') else value
  if not isinstance(ids, list | tuple) or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
    raise ValueError(f'{where} is {value!r:.60}, expected a text or token ids.')
  return list(ids)
