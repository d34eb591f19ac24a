"""docs/configuration.md: each name in its tables is as the page describes it."""

import importlib
import importlib.util
import itertools
import pathlib
import re

import pytest

import prompt_tuning
from prompt_tuning.programs import command, gin_files, launch

ROOT = pathlib.Path(prompt_tuning.__file__).parent
PAGE = (ROOT.parent / 'docs' / 'configuration.md').read_text()
TEXTS = {path: path.read_text() for path in (ROOT / 'configs').rglob('*.gin')
         if path.parts[-3] != 'experiments'}  # which have a separate page
STATES = ('supported', 'alias', 'clear error')


def rows(heading: str) -> list[list[str]]:
  """Returns the cells of the tables below a heading."""
  section = re.search(rf'^## {heading}$(.*?)(?=^## |\Z)', PAGE, re.MULTILINE | re.DOTALL).group(1)
  lines = [line for line in section.splitlines() if line.startswith('|')]
  cells = [[cell.strip() for cell in line.strip('|').split(' | ')] for line in lines if not set(line) <= set('|- ')]
  return [row for row in cells if row[0] not in ('flag', 'file', 'macro', 'name')]


def names(heading: str) -> list[str]:
  return [row[0].strip('`| ') for row in rows(heading) if row[0].startswith('`')]


def without_remarks(text: str) -> str:
  while '(' in text:
    text = re.sub(r'\([^()]*\)', '', text)
  return text


@pytest.mark.parametrize('heading', ['Flags', 'Files', 'Macros', 'Bindings', 'Tasks', 'Scripts'])
def test_every_row_says_what_becomes_of_the_name(heading):
  assert rows(heading)
  assert all(any(cell.strip(' |') in STATES for cell in row) for row in rows(heading))


def test_every_flag_is_known_and_refused_ones_are_refused():
  for name, programs, state, *_ in rows('Flags'):
    flag = name.strip('`')
    if '…' in flag or 'NAME' in flag:
      continue
    for program in command.PROGRAMS if programs == 'all' else [programs]:
      arguments = ['--gin_file=a', flag if flag == '--dry_run' else f'{flag}=2']
      if state == 'supported':
        command.parse_flags(program, arguments)
      else:
        with pytest.raises(ValueError, match=flag):
          command.parse_flags(program, [arguments[0], flag if 'gpu' in flag else arguments[1]])


def test_the_page_and_the_package_have_the_same_files():
  assert set(names('Files')) - {'experiments/*/*.gin'} == {str(path.relative_to(ROOT / 'configs')) for path in TEXTS}


def test_the_page_and_the_files_have_the_same_macros():
  used = {name for text in TEXTS.values() for name in re.findall(r'%([A-Z_]+)', text)}
  set_here = {name for text in TEXTS.values() for name in re.findall(r'(?m)^([A-Z_]+) =', text)}
  assert set(names('Macros')) == used
  assert set_here <= used


def test_every_macro_without_a_default_has_an_example():
  set_here = {name for text in TEXTS.values() for name in re.findall(r'(?m)^([A-Z_]+) =', text)}
  required = {name for name in names('Macros') if name not in set_here}
  assert required <= set(gin_files.EXAMPLES)


@pytest.mark.parametrize('name', [*names('Bindings'), *(
  name for name in names('Tasks') if name.startswith(('files.', 'table_to_text.')))])
def test_every_binding_of_the_page_is_known(name):
  typed = gin_files.mend(name).rpartition('/')[2]
  owner, _, parameter = typed.rpartition('.')
  known = launch.names()
  assert typed in known or parameter in known[owner]


def test_every_script_of_the_page_is_there():
  for name, state in rows('Scripts'):
    name = name.strip('`')
    there = importlib.util.find_spec(name) if name.startswith('prompt_tuning.') else ROOT / 'scripts' / name
    assert there is not None and (name.startswith('prompt_tuning.') or there.exists()), name
    assert state in ('supported', 'alias')


def expanded(name: str) -> list[str]:
  """Returns the names given by braces; braces without commas match any word."""
  brace = re.search(r'\{([^}]*)\}', name)
  if brace is None:
    return [name]
  words = brace[1].split(',') if ',' in brace[1] else [r'\w+']
  return [each for word in words for each in expanded(name[:brace.start()] + word + name[brace.end():])]


@pytest.mark.parametrize('module, listed', [
  (re.search(r'`(prompt_tuning\.data\.\w+)`', row[2])[1], re.findall('`([^`]+)`', row[0]))
  for row in rows('Tasks') if len(row) == 3 and '`prompt_tuning.data.' in row[2]])
def test_every_task_of_the_page_is_added_by_its_module(module, listed):
  seqio = pytest.importorskip('seqio', reason="SeqIO is not installed: pip install '.[seqio]'")
  importlib.import_module(module)
  there = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  for name in itertools.chain.from_iterable(map(expanded, listed)):
    for full in (name, f'mt5_{name}', f'byt5_{name}', *([] if 'c4_' in name else [f'{name}_examples'])):
      assert any(re.fullmatch(full, each) for each in there), full


def test_every_task_of_the_published_interface_is_on_the_page(shared):
  interface = (shared.parent / 'public_interface.md').read_text().partition('## Tasks')[2]
  published = {name.strip('…') for name in re.findall('`([^`]+)`', interface)}
  assert len(published) > 20
  assert [name for name in sorted(published) if name not in PAGE] == []


def test_every_name_of_the_published_interface_is_on_the_page(shared):
  interface = (shared.parent / 'public_interface.md').read_text()
  macros = set(re.findall(r'\b[A-Z][A-Z]+(?:_[A-Z]+)+\b', interface)) - {'VALUE'}
  flags = set(re.findall(r'`(--[a-z_]+)`', interface))
  owners = [(owner, without_remarks(inner)) for owner, inner in re.findall(r'`([\w/.]+)\.\{([^`}]+)\}', interface)
            if not owner.startswith('prompt_init')]  # its braces are nested
  bindings = {f'{owner}.{name}' for owner, inner in owners for name in re.findall(r'(?:^|,\s+)([a-z_.]+)', inner)}
  shell = {'TFDS_DATA_DIR', 'EVAL_DIR', 'MODEL_SIZE'}  # variables of the demo scripts
  missing = [name for name in sorted(macros - shell | flags | bindings) if name not in PAGE]
  assert missing == []
