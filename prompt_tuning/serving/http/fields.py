"""The bodies of requests. An unsupported field that would change the result is an error, and so is an invalid value.

A null stands for the default, as OpenAI's clients send it. Fields of their API, and of vLLM's, that this server does
not support are accepted with the value that changes nothing.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from prompt_tuning.files.json_files import shown
from prompt_tuning.names import nearest
from prompt_tuning.serving.http.errors import ApiError

_STOPS = 16  # OpenAI allows four; tasks of lm-evaluation-harness have more
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Top = Annotated[int, msgspec.Meta(ge=0, le=20)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
  include_usage: bool = False
  include_obfuscation: bool = False
  continuous_usage_stats: bool = False


class Generation(msgspec.Struct, frozen=True, kw_only=True):
  """What both routes that generate have in common; see `Request` for the meanings.

  Attributes:
    top_k: −1 and 0 cut nothing.
    seed: any 64 bits, of which the lower 32 are used; None draws one.
  """

  model: _Text
  temperature: Annotated[float, msgspec.Meta(ge=0, le=100)] = 1.0
  top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
  top_k: Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] = 0
  min_p: _Share = 0.0
  n: Annotated[int, msgspec.Meta(ge=1)] = 1
  stop: _Text | Annotated[list[_Text], msgspec.Meta(max_length=_STOPS)] = msgspec.field(default_factory=list)
  seed: Annotated[int, msgspec.Meta(ge=-2**63, le=2**63 - 1)] | None = None
  stream: bool = False
  stream_options: _Options | None = None

  @property
  def stops(self) -> tuple[str, ...]:
    """The stop texts."""
    return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

  @property
  def include_usage(self) -> bool:
    """Whether a stream ends with the number of tokens."""
    return self.stream_options is not None and self.stream_options.include_usage


class Completion(Generation, frozen=True, kw_only=True):
  """The body of `/v1/completions`; `prompt` is one of str, [str], [int], [[int]]."""

  prompt: str | list[Any]
  max_tokens: _Count = 16
  echo: bool = False
  logprobs: _Top | None = None


class Chat(Generation, frozen=True, kw_only=True):
  """The body of `/v1/chat/completions`."""

  messages: list[Any]
  max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
  max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
  logprobs: bool = False
  top_logprobs: _Top | None = None


class Load(msgspec.Struct, frozen=True):
  """The body of `/v1/load_prompt`."""

  prompt_name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
  prompt_path: _Text


class Unload(msgspec.Struct, frozen=True):
  """The body of `/v1/unload_prompt`."""

  prompt_name: _Text


class Tokenize(msgspec.Struct, frozen=True):
  """The body of `/tokenize`."""

  prompt: str
  add_special_tokens: bool = True
  model: str | None = None


class Detokenize(msgspec.Struct, frozen=True):
  """The body of `/detokenize`."""

  tokens: list[Annotated[int, msgspec.Meta(ge=0)]]
  model: str | None = None


_ANY = object()
# Fields that are not supported -> the values that ask for nothing; null always does.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
  **dict.fromkeys(('user', 'metadata', 'safety_identifier', 'prompt_cache_key', 'prompt_cache_retention', 'request_id',
                   'priority'), (_ANY,)),
  **dict.fromkeys(('frequency_penalty', 'presence_penalty', 'min_tokens'), (0,)),
  **dict.fromkeys(('repetition_penalty', 'length_penalty', 'best_of'), (1,)),
  **dict.fromkeys(('logit_bias', 'chat_template_kwargs'), ({},)),
  **dict.fromkeys(('tools', 'functions', 'stop_token_ids', 'bad_words', 'documents'), ([],)),
  **dict.fromkeys(('store', 'ignore_eos', 'use_beam_search', 'include_stop_str_in_output', 'continue_final_message',
                   'return_token_ids', 'return_tokens_as_token_ids', 'early_stopping'), (False,)),
  **dict.fromkeys(('skip_special_tokens', 'spaces_between_special_tokens', 'add_generation_prompt',
                   'parallel_tool_calls'), (True,)),
  'suffix': ('',), 'prompt_embeds': (), 'response_format': ({'type': 'text'},), 'tool_choice': ('none', 'auto'),
  'function_call': ('none', 'auto'), 'modalities': (['text'],), 'service_tier': ('auto', 'default'),
  'reasoning_effort': ('none',),
}
_Read = TypeVar('_Read', bound=msgspec.Struct)


def read(body: bytes, schema: type[_Read]) -> _Read:
  """Returns the fields of a body.

  Raises:
    ApiError: 400; the body is not a JSON object, or has a field that is unknown, not supported, or of a value that
      cannot be used. The message and `param` name the field.
  """
  fields = {field.encode_name: field for field in msgspec.structs.fields(schema)}
  values = {}
  for name, value in _object(body).items():
    if name not in fields:
      _require_neutral(name, value, list(fields))
    elif value is not None:
      values[name] = _converted(name, value, fields[name])
  for name, field in fields.items():
    if field.required and name not in values:
      raise ApiError(400, f'The field {name} is missing. Add it to the JSON object in the body.', param=name)
  return schema(**values)


def _object(body: bytes) -> dict[str, Any]:
  try:
    found = msgspec.json.decode(body)
  except RecursionError as error:
    raise ApiError(400, 'The body is nested too deeply. Send a JSON object with the fields of the API.') from error
  except ValueError as error:
    raise ApiError(400, f'The body is not JSON ({error}). Send a JSON object in UTF-8; NaN and Infinity are not JSON.'
                   ) from error
  if not isinstance(found, dict):
    raise ApiError(400, f'The body is {shown(found)}, expected a JSON object.')
  return found


def _require_neutral(name: str, value: Any, known: list[str]) -> None:
  """Raises ApiError unless a field that cannot be used asks for nothing."""
  if value is None:
    return
  if name not in NEUTRAL:
    hint = nearest(name, known)
    raise ApiError(400, f'There is no field {name:.60}.{hint or " Leave it out."}', param=name)
  allowed = NEUTRAL[name]
  if not any(each is _ANY or (each == value and isinstance(value, bool) == isinstance(each, bool)) for each in allowed):
    expected = f', expected {" or ".join(map(shown, allowed))}' if allowed else ''
    raise ApiError(400, f'{name}={shown(value)} is not supported{expected}. Leave {name} out.', param=name)


def _converted(name: str, value: Any, field: msgspec.structs.FieldInfo) -> Any:
  try:
    return msgspec.convert(value, field.type)
  except msgspec.ValidationError as error:
    reason = str(error).replace('`', '').replace(' - at $', f' in {name}')
    advice = 'Change it.' if field.required else 'Change it, or leave it out for the default.'
    raise ApiError(400, f'{name}={shown(value)} cannot be used: {reason[:1].lower()}{reason[1:]}. {advice}',
                   param=name) from error
