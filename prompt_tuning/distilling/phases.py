"""The phases before training, each with a file in the run's folder that is written whole, and read if it is there.

  study.json             what is studied, how, and by which model: a run is not resumed with anything else
  questions.jsonl        the questions, with the seeds of their answers
  answers.jsonl          the same with the tokens of the answers
  scores.teacher         examples with the teacher's probabilities, see `data.teacher_files`
  start.safetensors      the first values of the trained tensors

Whatever is drawn depends on the seed of its row alone, so a run that is killed and resumed ends with the same bits.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_tuning.data import teacher_files
from prompt_tuning.data.tasks import Task
from prompt_tuning.devices import multihost
from prompt_tuning.distilling import questions as asking
from prompt_tuning.distilling import teacher
from prompt_tuning.distilling.reading import Reading, Text, pieces
from prompt_tuning.distilling.settings import Study
from prompt_tuning.files import progress, storage
from prompt_tuning.files.json_files import Count, Fields, fields_of, parse_object, read_object
from prompt_tuning.models.abilities import require_writing
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.window import longest_row
from prompt_tuning.names import require_number
from prompt_tuning.training.metric_log import phase

STUDY, QUESTIONS, ANSWERS, SCORES = 'study.json', 'questions.jsonl', 'answers.jsonl', 'scores.teacher'
_LEAST = 16  # tokens of a document that must be readable at once


class _Row(Fields):
  question: str | list[int]
  seed: int
  part: Count
  answer: str | list[int] | None = None
  targets: tuple[int, ...] = ()
  end: int | None = None


@dataclasses.dataclass(frozen=True)
class Studied:
  """A document that was studied.

  Attributes:
    readings: what the teacher read at once: the whole document, or parts of it.
    path: the teacher file.
    task: its examples.
    lengths: most tokens of 'inputs' and 'targets'.
  """

  readings: Sequence[Reading]
  path: str
  task: Task
  lengths: Mapping[str, int]

  @property
  def tokens(self) -> int:
    """The number of tokens that the teacher reads before a question, of all parts."""
    return sum(len(reading.ids) for reading in self.readings)


def study(model: LanguageModel, document: Text, folder: str, how: Study, *, questions: Any = None, seed: int = 0,
          batch_size: int = 8, display: progress.Display) -> Studied:
  """Asks and answers questions about a document and scores the answers, or goes on with what the folder holds of it.

  Args:
    model: a decoder-only model with a vocabulary, which is its own teacher.
    document: a text, or token ids.
    folder: the run's folder.
    how: the settings.
    questions: see `questions.given`; None lets the model ask.
    seed: of questions and answers.
    batch_size: rows that are run together.
    display: shows how far a phase is.

  Raises:
    ValueError: something does not fit, or the folder holds what was made of something else.
    OSError: the folder cannot be written.
  """
  if not multihost.is_single_process():
    raise ValueError('A document cannot be distilled by several processes. Start one process; it may use all devices '
                     'of its host by mesh=.')
  require_usable(model, document)
  teacher_files.require_local(folder)
  require_number('top', how.top, least=1, most=model.module.config.vocab_size, whole=True)
  rows = None if questions is None else asking.given(questions, seed)
  parts = _parts(model, document, rows, how, display.say)
  readings = [Reading(model, part, how.question_template) for part in parts]
  about = _identity(model, document, rows, how, seed)
  _require_same(folder, about)

  def ask() -> list[asking.Row]:
    if rows is not None:
      finding = phase(f'Finding the parts of the document that {len(rows)} questions are about', display)
      with finding if len(parts) > 1 else contextlib.nullcontext():
        return teacher.placed(model, readings, rows, batch_size=batch_size)
    with phase(f'Asking {how.count} questions', display):
      return asking.ask(model, parts, how, seed=seed, batch_size=batch_size, say=display.say)

  def answer() -> list[asking.Row]:
    asked = _lines(folder, QUESTIONS, ask, len(parts))
    with phase(f'Answering {len(asked)} questions', display):
      return teacher.answered(model, readings, asked, how, batch_size=batch_size)

  path = storage.join(folder, SCORES)
  if not storage.exists(path):
    found = _lines(folder, ANSWERS, answer, len(parts))
    lengths = {'inputs': max(len(readings[0].plain(row['question'])) for row in found),
               'targets': max(len(teacher.targets_of(row)) for row in found)}
    with phase(f'Scoring {len(found)} answers', display):
      teacher_files.write(path, teacher.scored(model, readings, found, how.top, batch_size=batch_size), {
        **about, 'model_name': model.path, 'count': len(found), 'lengths': lengths,
        'validation': teacher.held_out(found, how.held_out)})
  task, there = teacher_files.task(path), teacher_files.read_about(path)
  _require_equal(path, there, about)
  return Studied(readings, path, task, dict(there['lengths']))


def require_usable(model: LanguageModel, document: Text) -> None:
  """Raises ValueError if a model cannot study a document."""
  require_writing(model.module, 'study a document')
  if model.prompted == 'encoder':
    raise ValueError('A document cannot be distilled for a model with an encoder, whose inputs see one another: keys '
                     'and values of a document depend on the question. Use a decoder-only model, or tune a prompt on '
                     'questions and answers about the document: `prompt-tuning train --data FILE`.')
  if model.vocabulary is None:
    raise ValueError('The model was loaded without a vocabulary, so no question can be asked. Give '
                     'load_model(..., vocabulary=...).')
  if len(document) == 0 or (isinstance(document, str) and not document.strip()):
    raise ValueError('The document is empty. Give a text, or token ids.')


def _parts(model: LanguageModel, document: Text, rows: Sequence[asking.Row] | None, how: Study,
           say: Callable[[str], None]) -> list[Text]:
  """Returns the document, or, if the model's window has no room for it, its parts, and says so."""
  limit, count = longest_row(model), Reading(model, document, how.question_template).tokens
  stub = Reading(model, 'A' if isinstance(document, str) else document[:1], how.question_template)
  taken = [(len(stub.asked('A' if isinstance(document, str) else document[:1])) + how.question_length
            + how.answer_length, 'A question of question_length= and an answer of answer_length=')]
  if rows is not None:
    taken = [(len(stub.asked(row['question'])) + (len(stub.answer(row['question'], row['answer'])[0]) + 1
                                                  if 'answer' in row else how.answer_length),
              f'Question {i} ({row["question"]!r:.60}) and its answer') for i, row in enumerate(rows)]
  most, owner = max(taken)
  room = min(limit - most if limit else count, how.context_length or count)
  if room < min(count, _LEAST):
    raise ValueError(f'{owner} take {most:,} tokens, which leaves no room for the document in the window of the model, '
                     f'{limit:,} tokens. Shorten them.')
  if count <= room:
    return [document]
  parts = pieces(document, room if not isinstance(document, str) else max(_LEAST, room * 9 // 10), model.vocabulary)
  say(f'Warning: the document has {count:,} tokens, but the teacher reads at most {room:,} of them at once (the '
      f'window of the model, or context_length=). It is studied in {len(parts)} parts, and each question is answered '
      'from one of them.')
  return parts


def _identity(model: LanguageModel, document: Text, rows: Any, how: Study, seed: int) -> dict[str, Any]:
  """Returns what decides what is learnt of a document, as plain values."""
  plain = document if isinstance(document, str) else [int(i) for i in document]
  words = plain if isinstance(plain, str) else ' '.join(map(str, plain[:20]))
  settings = dataclasses.asdict(how)
  if rows is not None:
    settings = {name: value for name, value in settings.items()
                if name not in ('count', 'chunk_length', 'question_length', 'question_temperature')}
  return {'model': model.weights_digest,
          'document': f'{words.strip()[:40]!r}, {len(plain):,} {"characters" if plain is document else "tokens"}, '
                      f'digest {_digest(plain)}',
          'questions': 'the model' if rows is None else _digest([
            {name: value for name, value in row.items() if name != 'seed'} for row in rows]),
          'seed': seed, **settings}


def _require_same(folder: str, about: Mapping[str, Any]) -> None:
  """Writes what is studied into the folder. Raises ValueError if something else is studied there."""
  path = storage.join(folder, STUDY)
  if not storage.exists(path):
    storage.write_bytes(path, json.dumps(about, indent=2, ensure_ascii=False).encode())
    return
  _require_equal(path, read_object(path), about)


def _require_equal(path: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
  changed = [name for name in here if there.get(name) != here[name]]
  if changed:
    told = '; '.join(f'{name}: {there.get(name)} there, {here[name]} here' for name in changed)
    raise ValueError(f'{path} was made of something else ({told}). Choose another folder, or the model, the document '
                     'and the settings with which that run was started.')


def _lines(folder: str, name: str, make: Callable[[], list[asking.Row]], parts: int) -> list[asking.Row]:
  """Returns the rows of a file, which are made and written if it does not exist.

  Raises:
    ValueError: a row has been damaged, or changed to what is no row of a document with so many parts.
  """
  path = storage.join(folder, name)
  if not storage.exists(path):
    storage.write_bytes(path, ''.join(f'{json.dumps(row, ensure_ascii=False)}\n' for row in make()).encode())
  rows = []
  for number, line in enumerate(storage.read_bytes(path).split(b'\n'), 1):
    if line.strip():
      rows.append(parse_object(f'{path}:{number}', line))
      found = fields_of(f'{path}:{number}', rows[-1], _Row)
      if found.part >= parts or (name == ANSWERS and not found.targets and found.end is None):
        raise ValueError(f'{path}:{number}: found part {found.part} of {parts}, counted from 0, and '
                         f'{len(found.targets)} tokens of an answer. Remove the file, and it is made again.')
  return rows


def _digest(value: Any) -> str:
  return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]
