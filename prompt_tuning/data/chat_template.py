"""The chat template of a model's folder, which writes a conversation as the text that the model was trained on."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.data.token_files import read_token_facts
from prompt_tuning.files import model_files, storage
from prompt_tuning.files.model_files import read_object

FILE = 'chat_template.jinja'
_CONFIG = 'tokenizer_config.json'
_REASONING = ('reasoning_content', 'thinking', 'reasoning')  # names of one field of a message


class NoTemplate(ValueError):
  """A model's folder has no chat template."""


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
  """A template of jinja2.

  Attributes:
    source: the template.
    path: its file, for messages.
    tokens: the special tokens that it may name, such as {'bos_token': '<s>'}.
  """

  source: str
  path: str
  tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @classmethod
  def read(cls, folder: str) -> 'ChatTemplate':
    """Returns the template of a model's folder: `chat_template.jinja`, or a field of `tokenizer_config.json`.

    Args:
      folder: local or `gs://`; '' stands for a vocabulary without one.

    Raises:
      NoTemplate: there is none.
      ValueError: a file is damaged.
    """
    path, config = storage.join(folder, FILE), storage.join(folder, _CONFIG)
    source = None
    if folder and model_files.exists(path):
      try:
        source = model_files.read_bytes(path).decode()
      except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not UTF-8 ({error.reason} at byte {error.start}). Download it again.') from error
    elif folder and model_files.exists(config):
      path, source = config, _named(config)
    if source is None:
      raise NoTemplate(
        f'{folder or "The vocabulary"} has no chat template, so a conversation cannot be written as a text: looked for '
        f'{FILE} and for chat_template in {_CONFIG}. Use the folder of a chat model, copy its template there, or give '
        'rows of plain texts: the columns inputs and targets, or prompt and completion.')
    facts = read_token_facts(folder)
    return cls(source, path, {f'{role}_token': text for role, text in {**facts.defaults, **facts.names}.items()})

  def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False) -> Any:
    """Returns a conversation as text, with the spans that the template itself marks as the assistant's.

    Args:
      messages: turns of plain values, with at least 'role' and 'content'.
      add_generation_prompt: end with the beginning of the assistant's next turn.

    Returns:
      `chat_rendering.Rendered`. Its text holds the begin token if there is one: none is to be added.

    Raises:
      ValueError: the template raises an error, or does not end.
    """
    from prompt_tuning.data import chat_rendering  # loads jinja2

    try:
      return chat_rendering.render(self.source, {
        'messages': [_with_reasoning(message) for message in messages], 'tools': None, 'documents': None,
        'add_generation_prompt': add_generation_prompt, **self.tokens})
    except ValueError as error:
      raise ValueError(f'The chat template of {self.path} cannot write the conversation: {error}. Give turns that it '
                       'supports, or repair it.') from error


def _named(path: str) -> str | None:
  """Returns the template that a `tokenizer_config.json` holds; the one called 'default' of several."""
  found = read_object(path).get('chat_template')
  if isinstance(found, list):
    try:
      named = {each['name']: each['template'] for each in found}
    except (TypeError, KeyError) as error:
      raise ValueError(f'{path}: chat_template is a list of {json.dumps(found)[:60]}…, expected objects with name and '
                       'template. Download it again.') from error
    if 'default' not in named:
      raise ValueError(f'{path} has the chat templates {", ".join(map(str, named))}, but none is called default. Write '
                       f'the one to use as {FILE} into the folder.')
    found = named['default']
  if found is not None and not isinstance(found, str):
    raise ValueError(f'{path}: chat_template is {json.dumps(found)[:60]}, expected a text. Download it again.')
  return found


def _with_reasoning(message: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a message whose reasoning has the names that templates read."""
  found = next((message[name] for name in _REASONING if message.get(name) is not None), None)
  return dict(message) if found is None else {'thinking': found, **message, 'reasoning_content': found}
