"""Teacher files: examples with what a teacher says of each target, computed once, read by index in any order.

One ArrayRecord file. Its first record, `about`, says which model scored the targets and what it had read; each other
record is an example, with `teacher_ids` and `teacher_log_probs` [S, K], the K likeliest tokens at the place of each
target, and `target_log_probs` [S], the teacher's log-probabilities of the targets themselves.
"""

import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prompt_tuning.data import records
from prompt_tuning.data.metrics import accuracy
from prompt_tuning.data.tasks import Example, Task
from prompt_tuning.files import storage
from prompt_tuning.files.json_files import Count, Fields, fields_of

_FORMAT = 'prompt_tuning teacher file 1'


class _About(Fields):
  model_name: str
  document: str
  count: Count
  validation: list[Count]
  lengths: dict[str, Count]
  model: str | None = None


def write(path: str, examples: Iterable[Example], about: Mapping[str, Any]) -> None:
  """Writes a teacher file, whole or not at all.

  Args:
    path: a local file.
    examples: see above.
    about: what `read_about` returns, as plain values: 'model', the digest of its weights or None; 'model_name';
      'document', a description; 'count', the number of examples; 'validation', those of this split; and
      'lengths', most tokens of 'inputs' and 'targets'.

  Raises:
    OSError: the file cannot be written.
  """
  require_local(path)
  with storage.whole_file(path) as temporary:
    first = {'format': _FORMAT, 'about': json.dumps(about)}
    records.write_alone(temporary, itertools.chain([first], examples))


def require_local(path: str) -> None:
  """Raises OSError if a path is not on a local disk."""
  if storage.is_remote(path):
    raise OSError(f'{path}: teacher files are read in any order, so they are written to a local disk only. Give a '
                  'local folder, and copy it afterwards.')


def read_about(path: str) -> dict[str, Any]:
  """Returns what a teacher file says of itself.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or is another file.
  """
  return _opened(path)[1]


def task(path: str) -> Task:
  """Returns the task of a teacher file, with the splits 'train' and 'validation'.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or is another file.
  """
  found, about = _opened(path)
  validation = set(about['validation'])
  numbers = {'train': [i for i in range(len(found) - 1) if i not in validation], 'validation': sorted(validation)}
  # Without its folder: the order of examples depends on the name.
  return Task(os.path.basename(path), {split: Scored(found, own, about) for split, own in numbers.items()}, (accuracy,),
              source=path)


class Scored(Sequence[Example]):
  """Some examples of a teacher file.

  Args:
    found: the records of the file.
    numbers: which of its examples.
    about: what it says of itself.
  """

  def __init__(self, found: records.Records, numbers: Sequence[int], about: Mapping[str, Any]):
    self._records, self._numbers, self.about = found, numbers, about

  def __len__(self) -> int:
    return len(self._numbers)

  def __getitem__(self, index: int) -> Example:
    number = self._numbers[index]
    try:
      return self._records[1 + number]
    except Exception as error:  # of libraries that read what may be damaged
      raise ValueError(f'{self._records.path}: example {number} is damaged ({type(error).__name__}: {error}). Make the '
                       'file again with `prompt-tuning distill`.') from error

  def require_model(self, digest: str | None, name: str) -> None:
    """Raises ValueError if another model than the one of this digest has scored the targets."""
    there = self.about.get('model')
    if None not in (digest, there) and digest != there:
      raise ValueError(f'{self._records.path} holds the scores of another model: that of the weights {there} '
                       f'({self.about["model_name"]}), which had read {self.about["document"]}, but the weights of '
                       f'{name} are {digest}. Give that model, or make the file again with `prompt-tuning distill`.')


def _opened(path: str) -> tuple[records.Records, dict[str, Any]]:
  if not storage.exists(path):
    raise FileNotFoundError(f'{path}: there is no such teacher file. `prompt-tuning distill` makes one.')
  try:
    found = records.Records(path)
    first = found[0]
    about = json.loads(first['about'])
    known = fields_of(path, about, _About)
    whole = first['format'] == _FORMAT and known.count == len(found) - 1 > max([-1, *known.validation])
  except Exception as error:  # of libraries that read what may be any file
    raise ValueError(f'{path} is no teacher file ({type(error).__name__}: {error}). Make it again with '
                     '`prompt-tuning distill`.') from error
  if not whole:
    raise ValueError(f'{path} is no whole teacher file of this version: it holds {len(found) - 1} examples, expected '
                     f'{about.get("count")}. Make it again with `prompt-tuning distill`.')
  return found, about
