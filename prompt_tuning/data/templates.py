"""Templates: how the columns of a row become an example."""

import bisect
import math
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompt_tuning.data import tables
from prompt_tuning.data.tasks import Example
from prompt_tuning.data.vocabulary import require_whole
from prompt_tuning.names import nearest

Row = tuple[str, dict[str, Any]]  # where it is, for messages, and its columns
IN_MEMORY = 'examples['  # start of the position of a row in memory


class Filled(str):
  """A text made by a template, which knows which of its parts may be cut.

  Attributes:
    parts: the template's words and the columns' texts in turn: words, text, words, …
    cut: the side of a column's text that is cut, 'left' or 'right'.
  """

  parts: tuple[str, ...]
  cut: str

  def __new__(cls, parts: Sequence[str], cut: str) -> 'Filled':
    made = super().__new__(cls, ''.join(parts))
    made.parts, made.cut = tuple(parts), cut
    return made

  def __reduce__(self) -> Any:
    return Filled, (self.parts, self.cut)

  def shortened(self, fits: Callable[[str], bool]) -> str | None:
    """Returns as much of the text as fits: the longest column's text is cut first. None if the words alone do not fit.

    Args:
      fits: whether a text is short enough.
    """
    parts = list(self.parts)
    for place in sorted(range(1, len(parts), 2), key=lambda i: -len(parts[i])):
      text = parts[place]

      def keep(count: int, text: str = text, place: int = place) -> str:
        kept = text[:count] if self.cut == 'right' else text[len(text) - count:]
        return ''.join([*parts[:place], kept, *parts[place + 1:]])

      if fits(keep(0)):
        count = bisect.bisect_left(range(1, len(text) + 1), True, key=lambda count: not fits(keep(count)))
        return keep(count)
      parts[place] = ''
    return None


class Templates:
  """Builds an example from a row's columns.

  Args:
    inputs: template of the input text.
    targets: template of the target text; None makes examples without targets.
    labels: maps values of the columns in `targets` to texts.
    loss_weight: the column of loss weights.
    cut: the side at which a column's text is cut if an example is too long, 'left' or 'right'.

  Raises:
    ValueError: a template names no column, or the label map cannot be used.
  """

  def __init__(self, inputs: str, targets: str | None = None, labels: Mapping[Any, Any] | None = None,
               loss_weight: str | None = None, cut: str = 'right'):
    if cut not in ('left', 'right'):
      raise ValueError(f'cut={cut!r} cannot be used: expected left or right.')
    self._cut = cut
    templates = {'inputs': inputs} | ({} if targets is None else {'targets': targets})
    self._templates = {key: _parse(key, template) for key, template in templates.items()}
    self._labels = None if labels is None else _label_map(labels)
    self._loss_weight = loss_weight

  @property
  def labels(self) -> tuple[str, ...]:
    """All possible target texts, from the label map; empty unless the template has exactly one column."""
    parts = self._templates.get('targets', ())
    if self._labels is None or sum(column is not None for _, column in parts) != 1:
      return ()
    texts = (''.join(words + ('' if column is None else label) for words, column in parts)
             for label in self._labels.values())
    return tuple(dict.fromkeys(texts))

  def columns(self, key: str | None = None) -> list[str]:
    """Returns the columns that a template names; without a key, those of all templates."""
    parts = self._templates[key] if key else [part for each in self._templates.values() for part in each]
    return list(dict.fromkeys(column for _, column in parts if column is not None))

  def __call__(self, row: Row) -> Example:
    """Returns the example of a row; raises ValueError, with the row's position, if a column cannot be used."""
    where, columns = row
    example: Example = {}
    for key, parts in self._templates.items():
      if len(parts) == 1 and not parts[0][0] and _are_ids(where, columns.get(parts[0][1])):
        example[key] = columns[parts[0][1]]
        continue
      filled = []
      for words, column in parts:
        value = '' if column is None else _text(where, columns, column)
        if column is not None and key == 'targets' and self._labels is not None:
          value = self._label(where, column, value)
        filled += [words, value]
      example[key] = Filled(filled, self._cut)
    if self._loss_weight is not None:
      example['loss_weight'] = read_weight(where, columns, self._loss_weight)
    return example | {'row': columns}

  def _label(self, where: str, column: str, value: str) -> str:
    if value not in self._labels:
      raise ValueError(f'{where}: column {column!r} holds {value!r}, but the label map has only '
                       f'{", ".join(map(repr, self._labels))}. Fix the line, or add the value to the label map.')
    return self._labels[value]


def _label_map(labels: Mapping[Any, Any]) -> dict[str, str]:
  """Returns a label map with texts for numbers, as the columns have them."""
  pairs = [(tables.spelled(value), tables.spelled(label)) for value, label in labels.items()] if (
    isinstance(labels, Mapping)) else []
  found = dict(pairs)
  if not found or None in found or None in found.values() or len(found) < len(pairs):
    raise ValueError(f'labels={labels!r} cannot be used: expected one text for each value of the column, such as '
                     "{'0': 'negative', '1': 'positive'}.")
  return found


def _parse(key: str, template: str) -> list[tuple[str, str | None]]:
  """Returns the template's pieces: literal text, and the column that follows it (None at the end)."""
  require_whole(template, f'The template for {key} cannot be used: ')
  try:
    parts = list(string.Formatter().parse(template))
  except ValueError as error:
    raise ValueError(f'The template {template!r} for {key} cannot be read: {error}. Write columns as {{text}}, and '
                     'double any literal braces.') from error
  columns = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
  if not columns or not all(name and not spec and not conversion for name, spec, conversion in columns):
    raise ValueError(f'The template {template!r} for {key} names no column, or one with a colon or an exclamation '
                     'mark. Write column names in braces, for example "sentence: {text}".')
  return [(words, name) for words, name, _, _ in parts]


def _text(where: str, columns: Mapping[str, Any], column: str, place: str = 'in the template') -> str:
  if column not in columns:
    raise ValueError(f'{where}: there is no column {column!r}; found {", ".join(columns) or "none"}.'
                     f'{nearest(column, columns)} Use one of these columns {place}, or '
                     'say with columns= what yours are.')
  value = columns[column]
  text = tables.spelled(value)  # label maps use JSON's spelling: true, not True
  if text is None:
    kinds = {type(None): 'null', dict: 'an object', list: 'a list', float: f'{value}'}
    raise ValueError(f'{where}: column {column!r} is {kinds.get(type(value), f"of type {type(value).__name__}")}; '
                     'expected a string, a number, true or false. Fix or remove the row.')
  require_whole(text, f'{where}: column {column!r}: ')
  return text


def read_weight(where: str, columns: Mapping[str, Any], column: str) -> float:
  """Returns the loss weight in a column; raises ValueError, with the row's position, if it is none."""
  text = _text(where, columns, column, 'as loss_weight=COLUMN')
  try:
    weight = float(text)
  except ValueError:
    weight = math.nan
  if not 0 <= weight < math.inf:
    raise ValueError(f'{where}: column {column!r} holds {text!r}, but loss_weight={column} needs numbers of at '
                     'least 0. Fix the row, or leave the weight out.')
  return weight


def _are_ids(where: str, value: Any) -> bool:
  """Returns True for token ids, or vectors, of a table in memory; files hold only texts."""
  return where.startswith(IN_MEMORY) and hasattr(value, '__len__') and not isinstance(value, str | bytes | Mapping)
