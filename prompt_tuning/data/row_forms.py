"""The forms of a table's rows: columns that templates fill, messages, and prompts with their completions."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from prompt_tuning.data.chat_format import ChatFormat
from prompt_tuning.data.conversation import Conversation
from prompt_tuning.data.messages import are_messages, read_messages
from prompt_tuning.data.tasks import Example
from prompt_tuning.data.templates import Row, Templates, read_weight
from prompt_tuning.names import nearest, require_known

INPUTS, TARGETS = '{inputs}', '{targets}'  # the templates unless others are given
# What a column can be without a template -> the form of its rows.
_FORMS = {'inputs': 'columns', 'targets': 'columns', 'messages': 'messages', 'prompt': 'prompt', 'completion': 'prompt'}
_ANSWERS = ('targets', 'completion')  # not read if rows are only predicted


@dataclasses.dataclass(frozen=True)
class RowReader:
  """Makes the examples of a table's rows.

  Rows have the form of the first one. If no template is given and they have no column `inputs`, they are conversations
  (the column `messages`, or `prompt` and `completion` that are lists of messages), or plain texts (`prompt` and
  `completion`).

  Attributes:
    inputs, targets, labels, loss_weight, cut: see `files.FileTask`; without targets, examples are only predicted.
    train_on: the turns of the assistant that are trained, 'all' or 'last'; None if rows are only evaluated.
    vocabulary: the model's, for conversations; or a function that returns it.
    columns: name that has a meaning here -> the table's column, such as `messages` -> `conversations`.

  Raises:
    ValueError: a setting cannot be used.
  """

  inputs: str = INPUTS
  targets: str | None = TARGETS
  labels: Any = None
  loss_weight: str | None = None
  cut: str = 'right'
  train_on: str | None = 'all'
  vocabulary: Any = None
  columns: Mapping[str, str] | None = None

  def __post_init__(self) -> None:
    self._check_columns()
    if self.train_on not in ('all', 'last', None):
      raise ValueError(f'train_on={self.train_on!r} cannot be used: expected all or last.')
    self._templates()

  @property
  def label_texts(self) -> tuple[str, ...]:
    """All possible target texts, from the label map."""
    return self._templates().labels

  def __call__(self, rows: Sequence[Row]) -> list[Example]:
    """Returns the examples of rows; raises ValueError, with the row's position, if one cannot be used."""
    if not self.columns:
      return self._examples(rows)
    made = self._examples([(where, self._renamed(where, columns)) for where, columns in rows])
    return [{**example, 'row': columns} for example, (_, columns) in zip(made, rows, strict=True)]

  @property
  def _has_templates(self) -> bool:
    return self.inputs != INPUTS or self.targets not in (TARGETS, None)

  def _check_columns(self) -> None:
    """Raises ValueError if `columns` names what no template uses, or columns of two forms."""
    given = self.columns or {}
    require_known(given, _FORMS, 'columns=', 'column')
    used = self._templates().columns() if self._has_templates else list(given)
    expected = [name for name in given if self.targets or name not in _ANSWERS]
    unused = next((name for name in expected if name not in used), None)
    forms = sorted({_FORMS[name] for name in given})
    if unused is not None or (not self._has_templates and len(forms) > 1):
      why = (f'no template has {{{unused}}}' if unused is not None else
             'these are of two forms of rows, such as conversations and plain columns')
      raise ValueError(f'columns= with {", ".join(given)} cannot be used: {why}. Leave '
                       f'{unused or "those of one form"} out.')

  def _renamed(self, where: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row's columns, of which some have a second name. Raises ValueError if the row lacks one."""
    wanted = {name: column for name, column in self.columns.items() if self.targets or name not in _ANSWERS}
    for name, column in wanted.items():
      if column not in columns:
        raise ValueError(f'{where}: there is no column {column!r}, which columns={name}={column} names; found '
                         f'{", ".join(columns) or "none"}.{nearest(column, columns)} Give one of these.')
    return {**columns, **{name: columns[column] for name, column in wanted.items()}}

  def _examples(self, rows: Sequence[Row]) -> list[Example]:
    form = self.form(rows[0][1])
    pair = ('prompt', 'completion') if self.targets else ('prompt',)
    lacks = [name for name in pair if name not in rows[0][1]]
    if form == 'columns' and lacks and not self._has_templates and set(pair) & set(self.columns or ()):
      raise ValueError(f'{rows[0][0]}: columns= names {", ".join(self.columns)}, but the row has no column {lacks[0]}. '
                       f'Name the column that is the {lacks[0]} too.')
    if form in ('messages', 'prompt'):
      return list(map(self._conversations(form), rows))
    if self.train_on == 'last':
      raise ValueError(f'train_on={self.train_on} cannot be used: {rows[0][0]} is not a conversation. Leave it out, or '
                       'give rows with the column messages.')
    plain = {'inputs': '{prompt}', 'targets': self.targets and '{completion}'} if form == 'texts' else {}
    return list(map(dataclasses.replace(self, **plain)._templates(), rows))

  def form(self, columns: Mapping[str, Any]) -> str:
    """Returns 'messages', 'prompt', 'texts' (a prompt and its completion), or 'columns'."""
    named = {_FORMS[name] for name in self.columns or ()}
    if self._has_templates or 'columns' in named or ('inputs' in columns and not named):
      return 'columns'
    if 'messages' in columns and 'prompt' not in named:
      return 'messages'
    if 'prompt' in columns and (self.targets is None or 'completion' in columns):
      return 'prompt' if are_messages(columns['prompt']) else 'texts'
    return 'columns'

  def _templates(self) -> Templates:
    return Templates(self.inputs, self.targets, self.labels, self.loss_weight, self.cut)

  def _conversations(self, form: str) -> Callable[[Row], Example]:
    """Returns the function that makes the example of a conversation's row."""
    if self.labels is not None:
      raise ValueError(f'labels={self.labels!r} cannot be used with conversations. Write the texts into the messages.')
    chat = ChatFormat.of(self.vocabulary() if callable(self.vocabulary) else self.vocabulary)
    if 'strftime_now' in chat.template.source and self.targets is not None:
      logging.log_first_n(
        logging.WARNING, "The chat template of %s writes today's date, so a run can only be resumed on the same day. "
        'Set the environment variable SOURCE_DATE_EPOCH to a time in seconds, which is used instead.', 1,
        chat.template.path)

    def make(row: Row) -> Example:
      where, columns = row
      if columns.get('tools'):
        raise ValueError(f'{where}: there is a column tools, but tools are not supported. Remove it, and write what '
                         'the model has to know about them into the turn of the system.')
      parts = [_column(where, columns, name) for name in (
        ('messages',) if form == 'messages' else ('prompt', 'completion') if self.targets else ('prompt',))]
      found = read_messages([message for part in parts for message in part], where)
      if self.targets is None:  # the question, which may be answered already
        asked = Conversation(chat, found[:-1] if found[-1]['role'] == 'assistant' else found, where, self.cut)
        return {'inputs': asked, 'inputs_ends': False, 'inputs_pretokenized': asked.text, 'row': columns}
      example = chat.example(found, where=where, first=len(parts[0]) if form == 'prompt' else 0, cut=self.cut,
                             train_on=self.train_on)
      weight = {} if self.loss_weight is None else {'loss_weight': read_weight(where, columns, self.loss_weight)}
      return {**example, **weight, 'row': columns}

    return make


def _column(where: str, columns: Mapping[str, Any], name: str) -> Sequence[Any]:
  """Returns the messages of a column."""
  if name not in columns:
    raise ValueError(f'{where}: there is no column {name!r}, which the first row has; found '
                     f'{", ".join(columns) or "none"}. Give all rows the same columns.')
  if not are_messages(columns[name]):
    raise ValueError(f'{where}: column {name!r} is {columns[name]!r:.60}, expected a list of messages with role and '
                     'content. Fix the row; of files, JSONL and Parquet can hold conversations.')
  return list(columns[name])
