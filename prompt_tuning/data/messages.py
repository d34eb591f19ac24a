"""The messages of a conversation, as files and clients have them: `[{"role": "user", "content": "…"}, …]`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning.data.vocabulary import require_whole
from prompt_tuning.names import nearest

Message = Mapping[str, Any]
SYSTEM = ('system', 'developer')
ROLES = (*SYSTEM, 'user', 'assistant', 'tool')
_UNSUPPORTED = ('tool_calls', 'function_call')
_EXAMPLE = '[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'


def are_messages(value: Any) -> bool:
  """Returns True for a list of objects."""
  return isinstance(value, list | tuple | np.ndarray) and len(value) > 0 and isinstance(value[0], Mapping)


def read_messages(value: Any, where: str) -> list[Message]:
  """Returns messages as a template reads them: plain values, the content a text.

  Several text parts of a content are joined by line breaks. The turns of user and assistant alternate, from a turn of
  the user on; those of the system come first.

  Args:
    value: the messages.
    where: where they come from, for messages of errors.

  Raises:
    ValueError: something cannot be used; the message names turn and field.
  """
  if not are_messages(value):
    raise ValueError(f'{where}: found {value!r:.60}, expected a list of messages such as {_EXAMPLE}.')
  found = [_message(message, f'{where}: turn {i}') for i, message in enumerate(value)]
  roles = [message['role'] for message in found]
  if 'user' not in roles:
    raise ValueError(f'{where}: the conversation has no turn of the user. Add one.')
  before = ''
  for i, role in enumerate(roles):
    if role in SYSTEM and before:
      raise ValueError(f'{where}: turn {i} is of the {role} and follows one of the {before}. Put it at the start.')
    if role == 'tool' and before not in ('assistant', 'tool'):
      raise ValueError(f"{where}: turn {i} is of the tool, but does not follow the assistant's. Put it there.")
    if role in ('user', 'assistant'):
      if role == before or (role == 'assistant' and not before):
        raise ValueError(f'{where}: turn {i} is of the {role} and {"follows another one" if before else "is the first"}'
                         '. Let turns of user and assistant alternate, from the user on; join those that belong '
                         'together.')
    before = role if role not in SYSTEM else before
  return found


def leading(messages: Sequence[Message], roles: Sequence[str]) -> int:
  """Returns the number of messages at the start that have one of these roles."""
  return next((i for i, message in enumerate(messages) if message['role'] not in roles), len(messages))


def _message(message: Any, where: str) -> Message:
  if not isinstance(message, Mapping) or not isinstance(message.get('role'), str):
    hint = ' In the format "from"/"value", rename them.' if isinstance(message, Mapping) and 'from' in message else ''
    raise ValueError(f'{where} is {message!r:.60}, expected an object with "role" and "content".{hint}')
  role = message['role']
  if role not in ROLES:
    raise ValueError(f'{where} has the unknown role {role!r}.{nearest(role, ROLES)} Use one of {", ".join(ROLES)}.')
  unused = [name for name in _UNSUPPORTED if message.get(name)]
  if unused:
    raise ValueError(f'{where} has {unused[0]}, which is not supported. Write the call into the content, as the model '
                     'writes it.')
  content = _text(message.get('content'), where)
  require_whole(content, f'{where}: ')
  if role == 'assistant' and not content.strip():
    raise ValueError(f"{where}: the assistant's content is empty, so there is nothing to learn or to follow. Give it a "
                     'text, or remove the turn.')
  more = {str(name): value for name, value in message.items() if name not in ('role', 'content') and value is not None}
  try:
    more = json.loads(json.dumps(more)) if more else more
  except (TypeError, ValueError, RecursionError) as error:
    raise ValueError(f'{where} has a field that is not a plain value ({error}). Remove it.') from error
  return {'role': role, 'content': content, **more}


def _text(content: Any, where: str) -> str:
  if isinstance(content, str):
    return str(content)
  if isinstance(content, list | tuple | np.ndarray):
    parts = [part.get('text') if isinstance(part, Mapping) and part.get('type', 'text') == 'text' else None
             for part in content]
    wrong = [part for part, text in zip(content, parts, strict=True) if not isinstance(text, str)]
    if not wrong:
      return '\n'.join(parts)
    content = wrong[0]
  raise ValueError(f'{where} has the content {content!r:.60}, expected a text, or parts such as '
                   '{"type": "text", "text": "…"}.')
