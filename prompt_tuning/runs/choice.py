"""A choice by name, with its options: a method, a loss, an optimizer, a sampler, a task."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Choice:
  """A name of a registry, with options. `Choice.of` also takes the name alone, or a mapping with the key `name`.

  Attributes:
    name: what a registry knows, or the path of a file of examples.
    options: plain values by name, which may be choices again.
  """

  name: str
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, value: Any) -> 'Choice':
    """Returns a name, a mapping with the key `name`, or a choice as a choice.

    Raises:
      ValueError: it is none of these.
    """
    if isinstance(value, cls):
      return value
    if isinstance(value, str) and value:
      return cls(value)
    if isinstance(value, Mapping) and isinstance(value.get('name'), str):
      return cls(value['name'], {key: _read(option) for key, option in value.items() if key != 'name'})
    raise ValueError(f'found {value!r:.80}, expected a name, or a mapping with the key "name" and options')

  def with_options(self, **options: Any) -> 'Choice':
    """Returns the choice with further options, which override its own."""
    return Choice(self.name, {**self.options, **options})

  def plain(self) -> str | dict[str, Any]:
    """Returns what files hold: the name, or a mapping if there are options."""
    if not self.options:
      return self.name
    return {'name': self.name, **{key: plain(value) for key, value in self.options.items()}}


def plain(value: Any) -> Any:
  """Returns a value as TOML holds it: choices as mappings, tuples as lists, None as 'none', objects as names."""
  if isinstance(value, Choice):
    return value.plain()
  if isinstance(value, Mapping):
    return {str(key): plain(each) for key, each in value.items()}
  if isinstance(value, list | tuple):
    return [plain(each) for each in value]
  if value is None:
    return 'none'
  if isinstance(value, str | int | float | bool):
    return value
  owner = value if hasattr(value, '__qualname__') else type(value)  # an object of a gin file, which has no text form
  return f'python:{owner.__module__}.{owner.__qualname__}'


def _read(value: Any) -> Any:
  """Returns an option as it was before `plain`."""
  if isinstance(value, Mapping) and 'name' in value:
    return Choice.of(value)
  if isinstance(value, list | tuple):
    return tuple(map(_read, value))
  return None if value == 'none' else value
