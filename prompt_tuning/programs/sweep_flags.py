"""Flags with several values, and named runs of a file, as the flags of single runs."""

import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.files import storage

Flags = dict[str, list[str]]  # '--name' -> its values
_MOST = 60  # characters of a value in a name


def read(argv: Sequence[str], *, alone: Sequence[str] = ()) -> Flags:
  """Returns the values of each flag.

  Args:
    argv: `--name value value …` and `--name=value`.
    alone: names of flags that must have one value.

  Raises:
    ValueError: a value belongs to no flag, or a flag is given twice or has too many values.
  """
  found: Flags = {}
  name = ''
  for arg in argv:
    if arg.startswith('--'):
      name, equals, value = arg.partition('=')
      name = '--' + name[2:].replace('-', '_')
      if name in found:
        raise ValueError(f'{name} is given twice. Give it once; several values follow each other: {name} A B.')
      found[name] = [value] if equals else []
    elif not name:
      raise ValueError(f'The argument {arg!r} belongs to no flag. Write --NAME VALUE …; a value with blanks needs '
                       'quotes.')
    else:
      found[name].append(arg)
  for flag in alone:
    if flag in found and len(found[flag]) != 1:
      raise ValueError(f'{flag} has {len(found[flag])} values ({" ".join(found[flag])}). Give one.')
  return found


def argv_of(flags: Flags) -> list[str]:
  """Returns flags of one value each as arguments."""
  return [f'{name}={values[0]}' if values else name for name, values in flags.items()]


def product(flags: Flags) -> dict[str, tuple[Flags, dict[str, str]]]:
  """Returns name of a run -> its flags, and those of them that vary, for each combination of values.

  Raises:
    ValueError: a flag has a value twice.
  """
  several = {name: values for name, values in flags.items() if len(values) > 1}
  for name, values in several.items():
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
      raise ValueError(f'{name} has the value {twice} twice. Give each value once.')
  runs = {}
  for chosen in itertools.product(*several.values()):
    varied = {name.removeprefix('--'): value for name, value in zip(several, chosen, strict=True)}
    own = {f'--{name}': [value] for name, value in varied.items()}
    runs[_free(','.join(f'{name}={_short(value)}' for name, value in varied.items()) or 'run', runs)] = (
      {**flags, **own}, varied)
  return runs


def of_file(path: str, flags: Flags) -> dict[str, tuple[Flags, dict[str, Any]]]:
  """Returns the same for the tables of a TOML file, each with the flags of one run; others are those of all.

  Raises:
    FileNotFoundError, ValueError: the file cannot be read, or a value cannot be written as a flag.
  """
  several = next((name for name, values in flags.items() if len(values) > 1), None)
  if several is not None:
    raise ValueError(f'{several} has {len(flags[several])} values, and --runs={path} names the runs. Give it one '
                     'value, or write the values into the tables of the file.')
  try:
    tables = tomllib.loads(storage.read_bytes(path).decode())
  except FileNotFoundError as error:
    raise FileNotFoundError(f'--runs={path}: there is no such file.') from error
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f'{path} is not TOML: {error}. Texts need quotes, as in data = "reviews.jsonl".') from error
  runs = {}
  for name, table in tables.items():
    if not isinstance(table, dict):
      raise ValueError(f'{path}: {name} is not a table. Write [NAME] above the settings of each run; those of all runs '
                       'are flags.')
    if {'output', 'config'} & set(table):
      raise ValueError(f'{path}: [{name}] has {next(each for each in ("output", "config") if each in table)}, which is '
                       'that of the sweep. Leave it out.')
    own = dict(pair for setting, value in table.items() for pair in _flags(f'{path}: [{name}]', setting, value))
    runs[name] = ({**flags, **own}, table)
  if not runs:
    raise ValueError(f'{path} has no tables. Write [NAME] above the settings of each run.')
  return runs


def _flags(place: str, setting: str, value: Any) -> list[tuple[str, list[str]]]:
  """Returns a setting of a file as flags."""
  name = f'--{setting.replace("-", "_")}'
  if isinstance(value, dict) and isinstance(value.get('name'), str):  # a choice with options
    return [(name, [value['name']]), *((f'{name}.{option}', [_text(place, option, each)])
                                       for option, each in value.items() if option != 'name')]
  if isinstance(value, dict):
    return [(name, [','.join(f'{key}={_text(place, setting, each)}' for key, each in value.items())])]
  return [(name, [_text(place, setting, value)])]


def _text(place: str, name: str, value: Any) -> str:
  if isinstance(value, list):
    texts = [_text(place, name, each) for each in value if not isinstance(each, list)]
    if len(texts) == len(value) and not any(',' in text for text in texts):
      return ','.join(texts)
  elif isinstance(value, bool):
    return str(value).lower()
  elif isinstance(value, str | int | float):
    return str(value)
  raise ValueError(f'{place} {name} = {value!r} cannot be used here: expected a text, a number, true or false, or a '
                   'list of these without commas.')


def _short(value: str) -> str:
  """Returns a value as a part of a folder's name."""
  last = value.rstrip('/').rpartition('/')[2]
  return re.sub(r'[^\w.+\-=]+', '-', last)[:_MOST].strip('-') or 'empty'


def _free(name: str, taken: Mapping[str, Any]) -> str:
  """Returns the name, with a number if another run has it."""
  numbers = itertools.count(2)
  free = name[:180]
  while free in taken:
    free = f'{name[:180]}-{next(numbers)}'
  return free
