"""Plain flags of the programs, made from the fields of the runs.

`--NAME VALUE` sets a field; each setting of the chosen method is a separate flag; `--loss.label_words no,yes` is an
option of a choice. `--config FILE` reads a run's TOML file, whose settings flags override.
"""

import argparse
import ast
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning.names import nearest, translated
from prompt_tuning.runs import run_file
from prompt_tuning.runs.base import Run
from prompt_tuning.runs.choice import Choice
from prompt_tuning.runs.eval_run import EvalRun, Use
from prompt_tuning.runs.infer_run import InferRun
from prompt_tuning.runs.method_settings import MethodSetting, described, method_settings
from prompt_tuning.runs.train_run import TrainRun
from prompt_tuning.runs.values import guessed, parsed

RUNS: Mapping[str, type[Run]] = {'train': TrainRun, 'eval': EvalRun, 'infer': InferRun}
_METAVARS = {'model': 'FOLDER', 'data': 'FILE', 'output': 'FOLDER', 'prompt': 'FOLDER'}
_FIRST = ('model', 'prompt', 'data', 'output', 'method', 'steps', 'batch_size', 'learning_rate')
_GROUPS = {'model': 'frozen model', 'data': 'data', 'method': 'method', 'training': 'training',
           'evaluation': 'evaluation', 'output': 'output', 'machine': 'machine'}


def add(parser: argparse.ArgumentParser, program: str) -> None:
  """Adds a flag for every field of a program's run, and for every setting of a method."""
  kind = RUNS[program]
  helps = {name: text for each in reversed(kind.__mro__) for name, text in described(each.__doc__ or '').items()}
  fields = kind.settings()
  groups = {group: parser.add_argument_group(title) for group, title in _GROUPS.items()}
  ordered = sorted(fields, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
  for name in ordered:
    field = fields[name]
    shown = '' if field.default in (None, ()) else f' (default: {_shown(field.default)})'
    more = {'nargs': '?', 'const': 'true'} if isinstance(field.default, bool) else {'nargs': '+'} if (
      name == 'prompt') else {}
    groups[field.metadata['group']].add_argument(
      f'--{flag(field)}', dest=name, default=argparse.SUPPRESS, metavar=_METAVARS.get(name, name.upper()),
      help=(helps.get(name, '') + shown).replace('%', '%%'), **more)
  if program == 'train':
    for setting, owners in _of_methods().values():
      groups['method'].add_argument(
        f'--{setting.name}', dest=f'method.{setting.name}', default=argparse.SUPPRESS, metavar=setting.name.upper(),
        help=f'for {", ".join(owners)}: {setting.help}'.replace('%', '%%'),
        **({'nargs': '?', 'const': 'true'} if setting.type == 'bool' else {}))


def lists(program: str) -> set[str]:
  """Returns the destinations of the flags whose values are lists."""
  methods = _of_methods() if program == 'train' else {}
  return {name for name, hint in RUNS[program].hints().items() if re.search(r'tuple\[|Mapping\[', str(hint))} | {
    f'method.{name}' for name, (setting, _) in methods.items() if re.search('Sequence|tuple', setting.type)}


def flag(field: dataclasses.Field) -> str:
  """Returns the name of a field's flag."""
  return field.metadata['flag'] or field.name


def run_of(program: str, given: Mapping[str, str | list[str]], config: str | None) -> Run:
  """Returns the run that flags and a file describe.

  Args:
    program: 'train', 'eval' or 'infer'.
    given: the flags that were given: dest -> text.
    config: the path of a run's file, or None.

  Raises:
    ValueError: a flag cannot be used; the message names settings as `name=value`.
  """
  kind = RUNS[program]
  hints, settings = kind.hints(), dict(run_file.read(config)) if config else {}
  for name, text in given.items():
    if name == 'prompt' and isinstance(text, list):
      settings[name] = tuple(text) if len(text) > 1 else parsed(name, text[0], str | None)
    elif '.' not in name:
      text = text.replace('\\n', '\n').replace('\\t', '\t') if name in ('template', 'target_template') else text
      settings[name] = parsed(name, text, hints[name])
  if 'method' in settings:
    _require_method(Choice.of(settings['method']).name)
  for name, text in given.items():
    owner, _, option = name.partition('.')
    if option:
      default = kind.settings()[owner].default if owner in kind.settings() else None
      before = settings.get(owner, default)
      if before is None:
        raise ValueError(f'--{name} is an option of {owner}, which is not given. Give --{owner} too.')
      settings[owner] = _with_option(owner, Choice.of(before), option, text)
  if issubclass(kind, Use) and isinstance(settings.get('prompt'), str | tuple | list):
    return kind.after(settings.pop('prompt'), settings)
  return kind.of(settings)


def take_options(program: str, argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
  """Returns the options of choices among arguments, such as `--loss.margin 2`, and the other arguments.

  `--init.text hello` is an option of a method's setting.

  Raises:
    ValueError: an option is given twice, or without a value.
  """
  owners = {name for name, hint in RUNS[program].hints().items() if 'Choice' in str(hint)} | (
    {'init'} if program == 'train' else set())
  found, rest, left = {}, [], list(argv)
  while left:
    arg = left.pop(0)
    match = re.fullmatch(r'--(\w+)\.(\w+)(?:=(.*))?', arg, re.DOTALL)
    if match and match[1] in owners:
      name = f'{"method.init" if match[1] == "init" else match[1]}.{match[2]}'
      typed = arg.partition('=')[0]
      if match[3] is None and (not left or left[0].startswith('--')):
        raise ValueError(f'{typed} has no value. Write {typed} VALUE.')
      value = left.pop(0) if match[3] is None else match[3]
      if name in found:
        raise ValueError(f'{typed} is given twice: {found[name]} and {value}. Give it once.')
      found[name] = value
    else:
      rest.append(arg)
  return found, rest


def _with_option(owner: str, chosen: Choice, option: str, text: str) -> Choice:
  """Returns a choice with an option of it set; `init.text` is an option of the option `init`."""
  first, _, inner = option.partition('.')
  if inner:
    own = next((each.default for each in method_settings()[chosen.name] if each.name == 'init'), '')
    default = ast.literal_eval(own) if own.startswith("'") else 'normal'
    return chosen.with_options(**{first: Choice.of(chosen.options.get(first, default)).with_options(
      **{inner: _option(inner, text)})})
  if owner != 'method':
    return chosen.with_options(**{option: _option(option, text)})
  known = method_settings()
  setting = next((each for each in known[chosen.name] if each.name == option), None)
  if setting is None:
    *most, last = [name for name, settings in known.items() if any(each.name == option for each in settings)]
    raise ValueError(f'{option}={text} cannot be used: the method {chosen.name} has no such setting, but '
                     f'{", ".join(most)}{" and " * bool(most)}{last} {"have" if most else "has"} it. Leave it out, or '
                     'choose that method.')
  return chosen.with_options(**{option: _as_typed(setting, text)})


def _option(name: str, text: str) -> Any:
  """Returns the value of an option of a choice: texts and paths stay so, even if they read as numbers."""
  if name in ('text', 'path', 'project', 'run_name'):
    return text
  return tuple(text.split(',')) if name in ('texts', 'label_words', 'decayed') else guessed(text)


def _require_method(name: str) -> None:
  known = method_settings()
  if name not in known:
    raise ValueError(f'method={name!r} is unknown.{nearest(name, known)} Choose one of {", ".join(known)}; '
                     'imports=MODULE loads the module that registers another.')


def _as_typed(setting: MethodSetting, text: str) -> Any:
  """Returns the value of a method's setting that a text on the command line gives."""
  if setting.type == 'Any':
    return text
  if 'Sequence' in setting.type or 'tuple' in setting.type:
    return tuple(part for part in text.split(',') if part)
  hints: dict[str, Any] = {'int': int, 'float': float, 'bool': bool, 'str': str}
  kinds = [hints[word] for word in re.findall(r'\w+', setting.type) if word in hints]
  hint = kinds[0] | None if 'None' in setting.type else kinds[0]
  return parsed(setting.name, text, hint)


def _of_methods() -> dict[str, tuple[MethodSetting, list[str]]]:
  """Returns every setting of a method with the methods that have it, and their defaults."""
  found: dict[str, tuple[MethodSetting, list[str]]] = {}
  for method, settings in method_settings().items():
    for each in settings:
      simple = each.default and not each.default.startswith('nn.')
      found.setdefault(each.name, (each, []))[1].append(f'{method} ({each.default})' if simple else method)
  return found


def unknown(program: str, name: str, shared: Sequence[str]) -> str:
  """Returns the message about a flag that no field and no method has."""
  if program != 'train' and name in _of_methods():
    return f'--{name} is a flag of train. {program} has it as an option of the method: --method.{name} VALUE.'
  known = [*map(flag, RUNS[program].settings().values()), *shared, *(_of_methods() if program == 'train' else ())]
  return f'There is no flag --{name}.{_dashed(nearest(name, known))} `prompt-tuning {program} --help` lists them.'


def in_words(program: str, message: str) -> str:
  """Returns a message of the library in the words of a command line: `name=value` becomes `--name value`."""
  names = {name: name if program == 'train' else f'method.{name}' for name in _of_methods()}
  names |= {name: flag(field) for name, field in RUNS[program].settings().items()}
  if program != 'train':
    names['kind'] = 'ensemble'
  names |= {'model_dir': 'output', 'train_steps': 'total_steps', 'num_microbatches': 'microbatches',
            'lengths': 'max_input_length= and --max_target_length'}
  return translated(message, {name: f'--{flag_name}' for name, flag_name in names.items()})


def _dashed(hint: str) -> str:
  return re.sub(r'(?<= )(?!Did|you|mean|or)(\w+)', r'--\1', hint)


def _shown(value: Any) -> str:
  if isinstance(value, Choice):
    return value.name
  if isinstance(value, tuple):
    return ','.join(map(str, value))
  return str(value).lower() if isinstance(value, bool) else str(value).replace('\n', '\\n')


