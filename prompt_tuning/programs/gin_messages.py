"""The messages of gin's errors: where, what, and which name is near."""

import difflib
import re
from collections.abc import Mapping, Sequence

from prompt_tuning.names import nearest

IN_GIN = '\n  In call to configurable'  # what gin adds to the messages of errors


def unreadable(error: Exception, path: str) -> ValueError:
  """Returns the error for a file that is not gin syntax."""
  message, place = (error.args + (None,))[:2] if error.args else (str(error), None)
  where = f'{place[0] or path}:{place[1]}' if isinstance(place, tuple) and len(place) > 2 else path
  text = place[3].strip() if isinstance(place, tuple) and len(place) > 3 and place[3] else ''
  return ValueError(f'{where}: cannot be read as gin: {message} {text!r}. Texts need quotes, names have none.')


def explained(error: Exception, known: Mapping[str, Sequence[str]], place: str = '', *,
              nearer: bool = False) -> Exception:
  """Returns an error of the same kind whose message says where, what, and which name is near.

  Args:
    error: what gin raised.
    known: what can be configured -> its parameters.
    place: where, for the message.
    nearer: the file and line that gin names, if it does, are the place instead.
  """
  text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
  text = text.split(IN_GIN)[0].split('\n  No values supplied by Gin')[0]
  where = re.search(r'\n  In file "([^"]+)", line (\d+)', text)
  file = place
  if where and (nearer or not place):
    file, place = where[1], f'{where[1]}:{where[2]}'
  text = text.split('\n  In ')[0]
  if isinstance(error, RecursionError | MemoryError):
    text = 'the values are nested too deeply, or refer to one another in a circle. Write them out.'
  for pattern, answer in (
      (r"No configurable matching (?:reference )?'@?([^'(]+)", lambda m: _unknown_name(m[1], known)),
      (r"Couldn't resolve selector ([\w.]+);", lambda m: _unknown_name(m[1], known)),
      (r"Configurable '([^']+)' doesn't have a parameter named '([^']+)'",
       lambda m: _unknown_parameter(*m.groups(), known)),
      (r"'(\w+)' was not provided by an import", lambda m: f'this file does not import {m[1]}. Add the import.'),
      (r"Ambiguous selector '([^']+)', matches (\[.*\])", lambda m: f'{m[1]} may mean {m[2]}. Write more of the name.'),
      (r"missing \d+ required .* arguments?: (.*)", lambda m: f'{_owner(error)} lacks {m[1]}. Set it in a gin file.')):
    match = re.search(pattern, text)
    if match:
      text = answer(match)
      break
  kind = next((kind for kind in (FileNotFoundError, OSError, ImportError) if isinstance(error, kind)), ValueError)
  return kind(text if file in text else f'{place}: {text}')


def _owner(error: Exception) -> str:
  match = re.search(r"In call to configurable '([^']+)'", str(error))
  return match[1] if match else 'The configuration'


def _unknown_name(name: str, known: Mapping[str, Sequence[str]]) -> str:
  # A long name is compared with names of as many parts.
  parts = name.count('.') + 1
  short = {'.'.join(each.split('.')[-parts:]): each for each in known}
  close = [short[each] for each in difflib.get_close_matches(name, short, n=3, cutoff=0.5)]
  hint = f' Did you mean {" or ".join(close)}?' if close else ''
  return f'There is no {name}.{hint} docs/configuration.md lists the names.'


def _unknown_parameter(name: str, parameter: str, known: Mapping[str, Sequence[str]]) -> str:
  owner = next((each for each in known if f'.{each}'.endswith(f'.{name}')), name)
  parameters = known.get(owner, [])
  return (f'{name} has no parameter {parameter}.{nearest(parameter, parameters)} '
          f'It has {", ".join(parameters)}.')
