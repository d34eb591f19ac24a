"""The commands and the Python code of README.md and docs/ work: each runs in a folder of toys, in the page's order.

Names in the pages (a model, a file of examples, a data folder) are replaced with toys of these names; programs run
with `--dry_run`, and so do runs that Python code starts. A command without a rule below fails.
"""

import ast
import dataclasses
import importlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import chat_toys
import jax
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import prompt_tuning as pt
from prompt_tuning import trees
from prompt_tuning.checkpoints.peft import CAUSAL, DECODER_PROMPT, write_adapter
from prompt_tuning.checkpoints.state import write_state
from prompt_tuning.evaluation import saved
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.models.loading import find_model, random_model, save_model
from prompt_tuning.models.positions import Rotary
from prompt_tuning.programs import command, distill, dry_run
from prompt_tuning.runs import run_file
from prompt_tuning.runs.base import Run
from prompt_tuning.scripts import transfer
from prompt_tuning.tuning.scales import Scales

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'benchmarks/README.md',
         *sorted((ROOT / 'docs').glob('*.md')), *sorted((ROOT / 'prompt_tuning').rglob('README.md'))]
# Name in the pages -> toy. Longer names come first.
TOYS = {
  'gs://t5-data/pretrained_models/t5x/t5_1_1_lm100k_base/': '{toys}/t5x/',
  'gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model': '{model}/tokenizer.json',
  '/models/t5_1_1_lm100k_base/': '{toys}/t5x/',
  '/runs/old/': '{toys}/old/', '/models/t5-base-lm-adapt': '{model}', '/models/t5-v1_1-small': '{model}',
  '/models/t5-small': '{model}',
  'Qwen/Qwen3-0.6B': '{toys}/qwen', 'HuggingFaceTB/SmolLM2-135M-Instruct': '{toys}/chat',
  'acme/reviews': 'runs/reviews',
  'hf://datasets/stanfordnlp/imdb:test': 'other_reviews.jsonl', 'hf://datasets/stanfordnlp/imdb': 'reviews.jsonl',
  '--tracker wandb --tracker.project films': '--tracker tensorboard',
  '/models/t5-v1_1-xxl': '{model}', '/models/qwen': '{toys}/qwen', '/models/chat': '{toys}/chat',
  'negative': '1', 'positive': '2', "'bad'": "'1'", "'good'": "'2'",  # words that the toys' vocabulary has
  '/data/tfds': '{toys}/tfds', 'runs/elicitation/model': '{toys}/gpt', 'gs://bucket/': ''}
# Sizes of the toy, instead of those of the models in the pages' commands.
SIZES = {'NUM_HEADS': 4, 'NUM_ENCODER_LAYERS': 2, 'NUM_DECODER_LAYERS': 2, 'HEAD_DIM': 24, 'EMBED_DIM': 96,
         'MLP_DIM': 256, 'NUM_EMBEDDINGS': 32}
# Names that Python blocks use but do not define, and replacements for values that would take long.
GIVEN = {'ids': [[6, 4, 5, 1]], 'target_ids': [[4, 5, 6, 1]]}
SHORTER = {'steps=600': 'steps=2', 'steps=200': 'steps=2', 'steps=500': 'steps=2', 'batch_size=64': 'batch_size=4'}
EXPERIMENTS = ('elicitation', 'table_to_text', 'frozen_transformer', 'clustering')  # they take minutes
# Exports of docs/pods.md, and a gcloud that never reaches a cloud.
POD = {'NAME': 'pod', 'ZONE': 'us-west4-a', 'TYPE': 'v5litepod-8', 'VERSION': 'v2-alpha-tpuv5-lite',
       'BASH_FUNC_gcloud%%': '() { false; }'}
COMMAND = re.compile(r'([A-Z_]+=\S+ )*(prompt-tuning|python3?|pip|make|pre-commit|sbatch|\S*\.sh)( |$)')
SEQIO = importlib.util.find_spec('seqio') is not None
ROWS = [{'inputs': f'{i} 2 3', 'targets': f'{i}', 'text': f'{i} 2', 'label': i % 2} for i in range(30)]


def blocks(page):
  """Yields the indented and the fenced blocks of a page: their language ('' if absent) and their text."""
  pattern = re.compile(r'^```(\w*)\n([\s\S]*?)^```$|(?:^    .*\n(?:[ \t]*\n(?=    ))*)+', re.MULTILINE)
  for match in pattern.finditer(page.read_text() + '\n'):
    language, fenced = match.groups()
    yield language or '', fenced if fenced is not None else re.sub('(?m)^    ', '', match[0])


def kind(language, text):
  """Returns the kind of a block: commands, arguments for the command before it, Python, or other."""
  first = text.lstrip().split('\n')[0]
  if language == 'python' or re.match(r'(import|from) \w', first):
    return 'python'
  if COMMAND.match(first):
    return 'commands'
  return 'arguments' if first.startswith('--gin') else 'other'


def commands(text):
  """Returns the words of each command of a block."""
  lines = text.replace('\\\n', ' ').split('\n')
  return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.fixture(scope='session')
def toys(tmp_path_factory):
  """The toys that do not change: the small model as a T5X checkpoint, with and without a prompt; SST-2."""
  folder = tmp_path_factory.mktemp('docs_toys')
  model = dataclasses.replace(pt.load_model('t5_integers'), step=1_100_000)
  save_model(model, str(folder / 't5x'), layout='t5x')
  tokenizer = pathlib.Path(find_model('t5_integers')) / 'tokenizer.json'
  shutil.copy(tokenizer, folder / 't5x/checkpoint_1100000')
  save_prompt(folder / 'prompt.npy')
  recreate = importlib.import_module('prompt_tuning.scripts.recreate_checkpoint')
  assert recreate.main([f'--prompt={folder}/prompt.npy', f'--model={folder}/t5x/checkpoint_1100000', '--step=1150000',
                        f'--output_dir={folder}/old']) == 0
  shutil.copy(tokenizer, folder / 'old/checkpoint_1150000')
  save_model(random_model(DecoderConfig(
    vocab_size=32, layers=2, width=8, heads=2, head_dim=4, mlp_dim=8, mlp_activations=('gelu',), norm='layer',
    bias=True, query_scale=0.5, position_count=32, family='gpt2', tied=True)), str(folder / 'gpt'))
  save_model(random_model(DecoderConfig(
    vocab_size=32, layers=2, width=12, heads=4, kv_heads=2, head_dim=6, mlp_dim=14, family='llama',
    mlp_activations=('silu', 'linear'), query_scale=6**-0.5, rotary=(Rotary(),) * 2, windows=(0, 0)),
    vocabulary=model.vocabulary), str(folder / 'qwen'))
  chat_toys.write_model(folder / 'chat')
  if SEQIO:
    sys.path.insert(0, str(ROOT / 'tests/data'))
    try:
      import tfds_folders
    finally:
      sys.path.pop(0)
    from tensorflow_datasets.text import glue

    features = glue.Glue(config='sst2', version='2.0.0', data_dir=folder / 'none').info.features
    rows = [{'sentence': '3 4', 'label': i % 2, 'idx': i} for i in range(3)]
    tfds_folders.store(folder / 'tfds', 'glue/sst2:2.0.0', features, dict.fromkeys(
      ('train', 'validation', 'test'), rows))
  return folder


def save_prompt(path):
  saved.SavedPrompt(np.ones((100, 96), np.float32)).save(str(path))


@pytest.fixture
def place(tmp_path, toys, monkeypatch):
  """The folder in which a page's commands run, with the package and the files that the pages name."""
  (tmp_path / 'prompt_tuning').symlink_to(ROOT / 'prompt_tuning')
  (tmp_path / 'runs/reviews').mkdir(parents=True)
  save_prompt(tmp_path / 'runs/reviews/best.safetensors')
  run_file.write(str(tmp_path / 'runs/reviews/run.toml'), {
    'model': find_model('t5_integers'), 'data': 'reviews.jsonl', 'target_template': '{label}',
    'labels': {'0': '1', '1': '2'}}, program='train')
  model = pt.load_model('t5_integers')
  (tmp_path / 'runs/scales').mkdir()
  write_state(str(tmp_path / 'runs/scales/best.safetensors'),
              trees.flatten(Scales().initialise(jax.random.key(0), model)), {})
  shutil.copytree(tmp_path / 'runs/reviews', tmp_path / 'runs/films')
  (tmp_path / 'runs/manual').mkdir()
  write_state(str(tmp_path / 'runs/manual/best.safetensors'), {
    f'decoder/prefix/{part}': np.ones((2, 4, 2, 6), np.float32) for part in ('keys', 'values')},
              {'frozen': 1, 'made_for': {'family': 'llama', 'width': 12, 'layers': [2], 'vocabulary': 265}})
  (tmp_path / 'runs/chat').mkdir()
  saved.SavedPrompt(np.ones((2, 12), np.float32), path='decoder/prompt/prompt/prompt').save(
    str(tmp_path / 'runs/chat/best.safetensors'))
  run_file.write(str(tmp_path / 'runs/chat/run.toml'), {'model': str(toys / 'chat'), 'data': 'chats.jsonl'},
                 program='train')
  chats = [{'messages': [chat_toys.SYSTEM, {**chat_toys.USER, 'content': f'{i}?'}, chat_toys.ANSWER]}
           for i in range(30)]
  (tmp_path / 'chats.jsonl').write_text('\n'.join(map(json.dumps, chats)))
  save_prompt(tmp_path / 'sst2.npy')
  (tmp_path / 'tasks.toml').write_text(
    '[a]\ndata = "reviews.jsonl"\n[b]\ndata = "other_reviews.jsonl"\noptimizer = {name = "adamw", b1 = 0.8}\n')
  for name in ('reviews.jsonl', 'other_reviews.jsonl', 'questions.jsonl', 'films.jsonl'):
    (tmp_path / name).write_text('\n'.join(map(json.dumps, ROWS)))
  parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / 'reviews.parquet')
  write_adapter(str(tmp_path / 'peft/prompt'), {DECODER_PROMPT: np.ones((2, 12), np.float32)}, task_type=CAUSAL)
  monkeypatch.setattr(saved.SavedPrompt, 'push', lambda self, name, **options: name)
  monkeypatch.setattr(saved.Trained, 'push', lambda self, name, **options: name)
  (tmp_path / 'questions.txt').write_text('3 1 2\n4\n')
  for name in ('reviews.tsv', 'train.tsv', 'validation.tsv'):
    head = ['text\tlabel'] if name == 'reviews.tsv' else []
    (tmp_path / name).write_text('\n'.join([*head, *(f'{row["text"]}\t{row["label"]}' for row in ROWS)]))
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(Run, 'run', dry_run.show)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setenv('TFDS_DATA_DIR', str(toys / 'tfds'))  # also ensures that it is restored
  monkeypatch.setattr(sys, 'path', [path for path in sys.path if path])  # programs add their working directory
  from prompt_tuning.data import registry, tasks

  monkeypatch.setattr(tasks, 'registered', dict(tasks.registered))
  before = set(sys.modules)
  if SEQIO:
    import seqio

    for name in ('c4', 'glue', 'glue_transfer', 'qa', 'summarization', 'super_glue'):
      importlib.import_module(f'prompt_tuning.data.{name}')
    before = set(sys.modules)
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
      monkeypatch.setattr(registry, '_REGISTRY', dict(registry._REGISTRY))
  yield tmp_path
  if SEQIO:
    seqio.set_tfds_data_dir_override(None)
  for name in set(sys.modules) - before:
    if (tmp_path / f'{name}.py').exists():
      del sys.modules[name]


def run_command(words, toys):
  """Runs a command of a page, or checks the names in it; returns its exit status."""
  line = with_toys(shlex.join(words), toys)
  words = shlex.split(line)
  variables = {}
  while re.match(r'[A-Z_]+=', words[0]):
    variables.update([words.pop(0).split('=', 1)])
  program, *arguments = words
  if program == 'prompt-tuning' and arguments[0] in command.PROGRAMS:
    sized = any('t5_1_1_base_prompt' in each for each in arguments)
    given = [each for each in arguments[1:] if not each.startswith('--dry_run')]
    return command.run(arguments[0], [*given, *(toy_sizes() if sized else []), '--dry_run'])
  if words[:2] == ['prompt-tuning', 'lm-eval']:  # tests/harness runs it
    own = [each for each in arguments if each not in ('--tasks', '--include_path')]  # two flags are the harness's
    return named_flags(own, ROOT / 'prompt_tuning/harness/command.py')
  if words[:2] == ['prompt-tuning', 'transfer']:  # tests/test_transfer.py runs it
    known = re.findall(r"'(--\w+)'", (ROOT / 'prompt_tuning/scripts/transfer.py').read_text())
    own, rest = transfer.split(known, arguments[1:])
    output = [] if '--output' in rest else ['--output', 'runs/none']
    return command.run('train', [*rest, *output, '--dry_run']) if '--library' in own else 2
  if words[:2] == ['prompt-tuning', 'recycle']:  # tests/test_recycling.py runs it; the toys share too few words
    return named_flags(arguments, ROOT / 'prompt_tuning/scripts/recycle.py')
  if words[:2] == ['prompt-tuning', 'serve']:  # tests/serving starts it
    return named_flags(arguments, ROOT / 'prompt_tuning/programs/serve.py')
  if words[:2] == ['prompt-tuning', 'distill']:  # tests/runs/test_distill_command.py runs it
    return 0 if distill.describe(arguments[1:]) else 2
  if program == 'prompt-tuning' and arguments[0] in ('sweep', 'find-rate'):
    return command.main([*arguments, '--dry_run'])
  if program == 'prompt-tuning':
    return command.main(arguments)
  if program == 'python3' and arguments[1:2] and arguments[1].rpartition('.')[2] in EXPERIMENTS:
    return named_flags(arguments[2:], ROOT / f'{arguments[1].replace(".", "/")}.py')
  if program == 'python3' and arguments[1:2] and arguments[1].startswith('t5x.'):
    return named_in_gin_files(arguments[2:])
  if program == 'python3' and arguments[:1] == ['-m']:
    status = importlib.import_module(arguments[1]).main(arguments[2:])
    return 0 if arguments[1].endswith('diff_checkpoints') and status == 1 else status  # they differ
  if program == 'python3' and arguments[0] == '-c':
    exec(arguments[1]) if 'load(' not in arguments[1] else ast.parse(arguments[1])  # no network here
    return 0
  if program == 'python' and arguments[0].startswith('benchmarks/'):
    return named_flags(arguments[1:], ROOT / arguments[0])
  if program.endswith('tpu_pod.sh'):
    subcommand, *rest = arguments
    status = subprocess.run(['bash', program, subcommand, '--dry_run', *rest], env={**os.environ, **POD},
                            stdout=subprocess.DEVNULL).returncode
    return run_command(rest, toys) if subcommand == 'run' and status == 0 else status
  if program == 'sbatch':
    script = next(place for place, each in enumerate(arguments) if each.endswith('.sbatch'))
    return run_command(arguments[script + 1:], toys) if pathlib.Path(arguments[script]).exists() else 2
  if program.endswith('.sh'):
    text = pathlib.Path(program).read_text()
    return 0 if set(re.findall(r'^: "\$\{(\w+):\?', text, re.MULTILINE)) == variables.keys() - {'ENGINE'} else 2
  if program == 'make':
    return 0 if re.search(rf'^{arguments[0]}:', (ROOT / 'Makefile').read_text(), re.MULTILINE) else 2
  if program == 'pip' and arguments[0] == 'install':
    extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
    named = re.fullmatch(r'\.(?:\[([\w,]+)\])?', arguments[1])
    return 0 if named and set((named[1] or 'test').split(',')) <= extras.keys() else 2
  if words == ['pre-commit', 'install']:
    return 0 if (ROOT / '.pre-commit-config.yaml').exists() else 2
  pytest.fail(f'No rule of this test knows the command {line!r}. Add one that runs it, or checks its names.')


def named_flags(arguments, script):
  """Returns 0 if a script has all flags, else 2."""
  known = re.findall(r"add_argument\('(--\w+)'", script.read_text())
  return 0 if {each.partition('=')[0] for each in arguments if each.startswith('--')} <= {*known} else 2


def named_in_gin_files(arguments):
  """Returns 0 if the gin files of a T5X command exist and gin files name everything that it sets, else 2."""
  words = set(re.findall(r'\w+', ' '.join(path.read_text() for path in (ROOT / 'prompt_tuning').rglob('*.gin'))))
  for flag in arguments:
    name, _, value = flag.removeprefix('--').partition('=')
    known = (ROOT / value).is_file() if name == 'gin_file' else (
      name == 'tfds_data_dir' or set(name.removeprefix('gin.').split('.')) <= words)
    if not known:
      return 2
  return 0


def with_toys(text, toys):
  """Returns a text with toys for the names that it holds."""
  for name, toy in TOYS.items():
    text = text.replace(name, toy.format(toys=toys, model=find_model('t5_integers')))
  return text


def toy_sizes():
  return [f'--gin.{name}={value}' for name, value in SIZES.items()]


def run_python(text, toys):
  """Writes a block that names its file; runs any other block."""
  named = re.match(r'# (\w+\.py)\n', text)
  if named:
    pathlib.Path(named[1]).write_text(text)
    return
  if re.search(r'^(from|import) (peft|transformers|qwix|tunix)\b', text, re.MULTILINE):
    ast.parse(text)  # of a page that compares; slow, and needs the extra `peers`
    return
  for long, short in SHORTER.items():
    text = text.replace(long, short)
  exec(compile(with_toys(text, toys), 'a block of a page', 'exec'), dict(GIVEN))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_to_run_works(page, place, toys, capsys):
  last = None
  for language, text in blocks(page):
    found = kind(language, text)
    if found == 'python':
      run_python(text, toys)
      continue
    if found == 'arguments':  # additional ones for the last command that trains, and its table
      assert last is not None
      words = [each.replace('reviews.jsonl', 'reviews.tsv') for each in last]
      todo = [words + shlex.split(text.replace('\\\n', ' '))]
    else:
      todo = commands(text) if found == 'commands' else []
    for words in todo:
      if not SEQIO and re.search('tfds|seqio|my_reviews|my_films', ' '.join(words)):
        continue
      paths = list(sys.path)
      status = run_command(words, toys)
      sys.path[:] = paths  # the next program starts with a clean path
      assert status == 0, f'{shlex.join(words)}\n{capsys.readouterr()}'
      last = words if words[:2] == ['prompt-tuning', 'train'] else last


def test_every_page_that_is_linked_is_there():
  for page in PAGES:
    for target in re.findall(r'\]\((?!https?:)([^)#]+)', page.read_text()):
      assert (page.parent / target).exists(), f'{page.name}: {target}'


def test_a_command_that_no_rule_knows_fails(toys):
  with pytest.raises(pytest.fail.Exception, match='No rule of this test knows the command'):
    run_command(['python3', 'elsewhere.py'], toys)
