"""docs/configuration.md: its tables have every setting of the runs and of the methods, with flag and default."""

import pathlib
import re

from prompt_tuning.runs import flags
from prompt_tuning.runs.method_settings import method_settings

PAGE = (pathlib.Path(__file__).parents[2] / 'docs/configuration.md').read_text()
SECTION = PAGE.partition('## Settings of a run\n')[2].partition('\n## ')[0]


def table(first: str) -> list[list[str]]:
  """Returns the cells of the rows of the table whose heading begins with a word."""
  (found,) = re.findall(rf'^\| {first} .*\n\|[-|]+\n((?:\|.*\n)+)', SECTION, re.MULTILINE)
  return [[cell.strip('` ') for cell in line.strip('|').split(' | ')] for line in found.splitlines()]


def shown(default: object) -> str:
  return 'none' if default in (None, ()) else flags._shown(default)


def test_the_table_of_settings_is_that_of_the_runs():
  listed = sorted(
    (program, name, flag, default) for name, flag, programs, default, _ in table('setting')
    for program in (flags.RUNS if programs == 'all' else programs.split(', ')))
  assert listed == sorted(
    (program, name, f'--{flags.flag(field)}', shown(field.default)) for program, kind in flags.RUNS.items()
    for name, field in kind.settings().items())


def test_every_setting_is_explained():
  assert all(len(row) == 5 and row[-1] for row in table('setting'))


def test_the_table_of_methods_is_that_of_the_methods():
  listed = {(method, flag.lstrip('-')): default for flag, defaults, _ in table('flag')
            for method, default in (each.split(' ') for each in defaults.split(', '))}
  known = {(method, each.name): each.default for method, settings in method_settings().items() for each in settings}
  assert set(listed) == set(known)
  for key, default in known.items():
    plain = re.sub(r"^nn\.initializers\.(\w+)\(.*\)$|^\('(.*)',\)$|^'(.*)'$", r'\1\2\3', default)
    assert listed[key] == {'True': 'true', 'False': 'false', 'None': 'none', '()': 'none'}.get(plain, plain), key
