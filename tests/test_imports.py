"""The import layers of docs/design.md, checked on the source; importing the package loads nothing heavy."""

import ast
import functools
import graphlib
import pathlib
import statistics
import subprocess
import sys

import pytest

import prompt_tuning

ROOT = pathlib.Path(prompt_tuning.__file__).parent

# Folder or top-level file -> its layer; all others are programs, which lower layers may not import.
LAYERS = {name: layer for layer, names in enumerate((
  ('types', 'names', 'checks', 'trees', 'devices', 'files', 'rows'),
  ('tuning', 'prompts', 'decoding', 'losses', 'checkpoints', 'data'),
  ('models',),
  ('evaluation',),
  ('training', 'serving', 'distilling', 't5x_plugin'),
  ('runs',),
)) for name in names}
PROGRAMS = 6
PARTS = 1  # parts do not import each other
PUBLIC = {'prompts': 'tuning'}  # user-facing names -> their modules

# A heavy or optional library -> the only files that may import it.
HOMES = {
  'gin': ('programs/launch.py',),
  'msgspec': ('files/json_files.py', 'runs/', 'data/token_files.py', 'serving/http/'),
  'tomli_w': ('runs/run_file.py',),
  'tensorstore': ('checkpoints/t5x.py',),
  'safetensors': ('checkpoints/huggingface.py', 'checkpoints/state.py'),
  'sentencepiece': ('data/sentencepiece_vocabulary.py',),
  'tokenizers': ('data/tokenizers_vocabulary.py', 'data/added_tokens.py', 'data/byte_level_bpe.py',
                 'scripts/make_integer_tokenizer.py'),
  'grain': ('data/pipeline.py',),
  'jinja2': ('data/chat_rendering.py', 'reporting/page.py'),
  'sklearn': ('evaluation/clusters.py', 'data/digits.py'),
  'seqio': ('data/seqio_tasks.py', 'data/seqio_reading.py'),
  'tensorflow': ('data/seqio_tasks.py', 'data/seqio_reading.py'),
  'tensorflow_datasets': ('data/seqio_tasks.py', 'data/seqio_reading.py'),
  'torch': (),
  'transformers': (),
  'matplotlib': ('evaluation/reports.py',),
  'tensorboardX': ('training/metric_log.py',),
  'rich': ('files/progress.py',),
  'IPython': ('files/progress.py',),
  'starlette': ('serving/http/',),
  'uvicorn': ('serving/http/server.py',),
  'prometheus_client': ('serving/http/metrics.py',),
  'gcsfs': ('files/gcs.py',),
  'huggingface_hub': ('files/hub.py',),
  'gguf': ('files/gguf_file.py',),
  'datasets': ('data/hub_tables.py',),
  'pyarrow': ('data/parquet.py',),
  't5x': ('t5x_plugin/',),
  'flaxformer': ('t5x_plugin/',),
}


@functools.cache
def sources() -> dict[str, ast.Module]:
  """Returns the package's files: path below the package -> parsed source."""
  return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(ROOT.rglob('*.py'))}


def imported(tree: ast.Module) -> list[str]:
  """Returns the dotted names of everything that a file imports, including imports inside functions."""
  names = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      names += [f'{node.module}.{alias.name}' for alias in node.names]
  return names


def part_of(file: str) -> str:
  part = file.split('/')[0].removesuffix('.py')
  return PUBLIC.get(part, part)


def edges() -> list[tuple[str, str, str]]:
  """Returns (file, its part, the part that it imports) for every import inside the package."""
  found = []
  for file, tree in sources().items():
    for name in imported(tree):
      if name.startswith('prompt_tuning.'):
        found.append((file, part_of(file), part_of(name.split('.')[1])))
  return found


def test_imports_go_downward_or_stay_inside_a_part():
  wrong = [f'{file} imports {target}' for file, part, target in edges()
           if part != '__init__' and LAYERS.get(target, PROGRAMS) > LAYERS.get(part, PROGRAMS)]
  assert not wrong


def test_parts_do_not_import_each_other():
  wrong = [f'{file} imports {target}' for file, part, target in edges()
           if LAYERS.get(part) == LAYERS.get(target) == PARTS and part != target]
  assert not wrong


@pytest.mark.parametrize('library', HOMES)
def test_a_heavy_library_is_imported_in_its_home_only(library):
  users = [file for file, tree in sources().items() if any(name.split('.')[0] == library for name in imported(tree))]
  homes = HOMES[library]
  assert [file for file in users if file not in homes and not file.startswith(tuple(h for h in homes if h[-1] == '/'))
          ] == []


def test_methods_know_no_model_and_models_no_method():
  known = {part: {target for _, each, target in edges() if each == part} for part in ('models', 'tuning')}
  assert 'tuning' not in known['models']
  assert 'models' not in known['tuning']


def modules() -> dict[str, set[str]]:
  """Returns the import graph of files: dotted name of a module -> the modules of the package that it imports."""
  names = {f'prompt_tuning.{file[:-3].replace("/", ".")}'.removesuffix('.__init__') for file in sources()}
  graph = {}
  for file, tree in sources().items():
    name = f'prompt_tuning.{file[:-3].replace("/", ".")}'.removesuffix('.__init__')
    found = (each if each in names else each.rpartition('.')[0] for each in imported(tree))
    graph[name] = {each for each in found if each in names and each != 'prompt_tuning'} - {name}
  return graph


def test_no_file_imports_itself_through_others():
  graphlib.TopologicalSorter(modules()).prepare()  # raises CycleError, which names the cycle


def test_the_top_level_stays_small():
  assert len(list(ROOT.glob('*.py'))) <= 10


def test_files_are_short():
  lengths = {file: len((ROOT / file).read_text().splitlines()) for file in sources()}
  assert statistics.median(lengths.values()) <= 120
  assert {file: length for file, length in lengths.items() if length > 300} == {}


def test_importing_the_package_loads_neither_jax_nor_tensorflow():
  code = ('import sys, prompt_tuning; dir(prompt_tuning)\n'
          'print([name for name in ("jax", "numpy", "flax", "tensorflow", "grain") if name in sys.modules])')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == '[]'


def test_every_public_name_can_be_loaded():
  for name in prompt_tuning.__all__:
    assert getattr(prompt_tuning, name) is not None


def test_an_unknown_public_name_is_answered_with_those_that_exist():
  with pytest.raises(AttributeError, match=r"no attribute 'tuen'.* It offers .*tune"):
    prompt_tuning.tuen  # noqa: B018
