"""Mutated inputs at every door: each is accepted, or ends as an error of the project with the path or the setting.

Thousands of seeded inputs. `FUZZ_COUNT` is the number for each door, `FUZZ_SEED` the first seed.
"""

import contextlib
import gzip
import json
import os
import pathlib
import random
import shutil
import signal
import sys

import chat_toys
import flax.serialization
import mutations
import numpy as np
import pytest
import tomli_w

from prompt_tuning.checkpoints.huggingface import HuggingFaceFolder
from prompt_tuning.checkpoints.peft import read_adapter, write_adapter
from prompt_tuning.checkpoints.state import write_state
from prompt_tuning.checkpoints.t5x import T5XCheckpoint
from prompt_tuning.data import files
from prompt_tuning.data.vocabulary_folders import load_vocabulary
from prompt_tuning.evaluation.saved import load_prompt
from prompt_tuning.models import loading
from prompt_tuning.models.families.registry import family_of_folder
from prompt_tuning.programs import command, launch
from prompt_tuning.runs import flags

COUNT, SEED = int(os.environ.get('FUZZ_COUNT', 150)), int(os.environ.get('FUZZ_SEED', 0))
SECONDS = 20  # of processor time, for one input
FAMILIES = pathlib.Path(__file__).parent.parent / 'models/families'
SHIPPED = pathlib.Path(loading.find_model('t5_integers'))
PROMPT = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
ABOUT = {'placement': 'before', 'visibility': {'input': True, 'prompt': True}, 'made_for': {'family': 't5'}, 'step': 7}
ROWS = [{'inputs': 'a b', 'targets': 'c', 'id': 7}, {'inputs': 'ä', 'targets': '0', 'id': None}]
TRAIN = {'model': 't5_integers', 'data': 'rows.jsonl', 'output': 'out', 'steps': 5, 'batch_size': 8,
         'max_input_length': 16, 'learning_rate': 0.3, 'method': {'name': 'prompt', 'length': 3, 'init': 'sampled'},
         'labels': {'0': 'no', '1': 'yes'}, 'optimizer': 'adafactor', 'imports': [], 'seed': 1, 'mesh': {'data': 1}}
GIN = {'MODEL_DIR': "'out'", 'INITIAL_CHECKPOINT_PATH': "'t5_integers'", 'TRAIN_STEPS': '80', 'PROMPT_LENGTH': '7',
       'MIXTURE_OR_TASK_NAME': "'Add1'", 'TASK_FEATURE_LENGTHS': "{'inputs': 9, 'targets': 5}", 'BATCH_SIZE': '4',
       'EVAL_PERIOD': '2', 'utils.SaveCheckpointConfig.period': '3', 'RANDOM_SEED': '1', 'DROPOUT_RATE': '0.1',
       'train_prompts.Prompt.prompt_init': '@linen.initializers.uniform()'}
GIN_FILES = ('models/from_checkpoint_prompt.gin', 'prompts/from_sampled_vocab.gin', 'runs/prompt_finetune.gin')


class TooSlow(BaseException):
  """An input took longer than the limit."""


@contextlib.contextmanager
def limited():
  def stop(number, frame):
    raise TooSlow
  before = signal.signal(signal.SIGPROF, stop)
  signal.setitimer(signal.ITIMER_PROF, SECONDS)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


# Doors: each takes a folder and a chance, and returns a function to call and words of which a message has one.


def config_json(folder, chance):
  name = chance.choice(sorted(path.name for path in FAMILIES.iterdir()))
  config = mutations.of_json(json.loads((FAMILIES / name / 'config.json').read_text()), chance)
  return lambda: family_of_folder(config, 'here').read_config(config, ['lm_head.weight'], 'here'), ['here']


def file_of(copied, name, mutate, read):
  """Returns the door of one file of a folder, whose bytes are mutated."""
  def door(folder, chance):
    shutil.copytree(copied, folder, dirs_exist_ok=True)
    path = folder / name
    path.write_bytes(mutate(path.read_bytes(), chance))
    return lambda: read(folder), [str(folder)]
  return door


def as_json(content, chance):
  return json.dumps(mutations.of_json(json.loads(content), chance)).encode()


def header(content, chance):
  """Mutates the header of a safetensors file, and keeps its length right half of the time."""
  length = int.from_bytes(content[:8], 'little')
  head = content[8:8 + length]
  head = mutations.of_bytes(head, chance) if chance.random() < 0.3 else as_json(head, chance)
  size = len(head) if chance.random() < 0.8 else chance.choice([0, length, 2**63, len(content)])
  return size.to_bytes(8, 'little') + head + content[8 + length:]


def arrays(folder):
  reader = HuggingFaceFolder(str(folder))
  for name in reader.names():
    reader.read(name)


def index(folder, chance):
  shutil.copytree(SHIPPED, folder, dirs_exist_ok=True)
  names = list(HuggingFaceFolder(str(folder)).names())
  os.rename(folder / 'model.safetensors', folder / 'a.safetensors')
  stored = {'metadata': {'total_size': 1}, 'weight_map': dict.fromkeys(names[:5], 'a.safetensors')}
  (folder / 'model.safetensors.index.json').write_text(json.dumps(mutations.of_json(stored, chance)))
  return lambda: arrays(folder), [str(folder)]


def npy(folder, chance):
  np.save(folder / 'p.npy', PROMPT)
  content = mutations.of_bytes((folder / 'p.npy').read_bytes(), chance)
  (folder / 'p.npy').write_bytes(content)
  return lambda: load_prompt(str(folder / 'p.npy')), [str(folder)]


def state(folder, chance):
  path = folder / 'last.safetensors'
  write_state(str(path), {'encoder/prompt/prompt/prompt': PROMPT}, ABOUT)
  path.write_bytes(chance.choice([mutations.of_bytes, header])(path.read_bytes(), chance))
  return lambda: load_prompt(str(folder)), [str(folder)]


def metadata(folder, chance):
  about = mutations.of_json(ABOUT, chance)
  write_state(str(folder / 'p.safetensors'), {'decoder/prompt/prompt/prompt': PROMPT},
              about if isinstance(about, dict) else {})
  return lambda: load_prompt(str(folder / 'p.safetensors')), [str(folder), 'placement']


def adapter(folder, chance):
  write_adapter(str(folder / 'a'), {'encoder/prompt/prompt/prompt': PROMPT}, task_type='SEQ_2_SEQ_LM')
  name, mutate = chance.choice([('adapter_config.json', as_json), ('adapter_config.json', mutations.of_bytes),
                                ('adapter_model.safetensors', header)])
  path = folder / 'a' / name
  path.write_bytes(mutate(path.read_bytes(), chance))
  return lambda: read_adapter(str(folder / 'a')).trained(), [str(folder)]


def jsonl(folder, chance):
  path = folder / chance.choice(['rows.jsonl', 'rows.jsonl.gz'])
  lines = [json.dumps(mutations.of_json(row, chance) if chance.random() < 0.5 else row) for row in ROWS * 2]
  content = '\n'.join(lines).encode()
  return _table(path, content, chance)


def tsv(folder, chance):
  content = 'inputs\ttargets\tid\n' + ''.join('\t'.join(map(str, row.values())) + '\n' for row in ROWS * 2)
  name = chance.choice(['rows.tsv', 'rows.tsv.gz', 'rows.txt', 'rows.txt.gz'])
  return _table(folder / name, content.encode(), chance)


def _table(path, content, chance):
  content = mutations.of_bytes(content, chance) if chance.random() < 0.7 else content
  if path.suffix == '.gz':
    content = gzip.compress(content)
    content = mutations.of_bytes(content, chance) if chance.random() < 0.5 else content
  path.write_bytes(content)
  read = files.read_inputs if '.txt' in path.name else files.FileTask
  return lambda: read(str(path)), [str(path)]


def conversations(folder, chance):
  chat = chat_toys.chat_format(folder / 'model')
  path = folder / 'chats.jsonl'
  turns = [chat_toys.SYSTEM, chat_toys.USER, chat_toys.ANSWER, chat_toys.MORE, chat_toys.LAST]
  row = chance.choice([{'messages': turns, 'tools': None}, {'prompt': turns[:2], 'completion': turns[2:]}])
  path.write_text(json.dumps(mutations.of_json(row, chance)))

  def read():
    (example,) = files.FileTask(str(path), validation=0.0, vocabulary=chat.vocabulary).split('all')
    if 'targets_end' in example:
      example['inputs'].start('user')
      example['inputs'].shortened(lambda each: len(each) <= 40)
  return read, [str(path)]


def chat_template(folder, chance):
  source = chance.choice([chat_toys.CHATML, '{% for m in messages %}{% set ns = namespace(x=m.role) %}{% generation %}'
                          '{{ ns.x ~ m.content }}{{ eos_token }}{% endgeneration %}{% endfor %}'])
  chat = chat_toys.chat_format(folder)
  path = folder / 'chat_template.jinja'
  path.write_bytes(mutations.of_bytes(source.encode(), chance))
  turns = [chat_toys.SYSTEM, chat_toys.USER, chat_toys.ANSWER, chat_toys.MORE, chat_toys.LAST]
  return lambda: type(chat).of(chat.vocabulary).example(turns, where='here'), [str(path), 'here']


def tokenizer(folder, chance):
  shutil.copyfile(SHIPPED / 'tokenizer.json', folder / 'tokenizer.json')
  for name, stored in (('tokenizer_config.json', {'eos_token': '</s>', 'pad_token': {'content': '<pad>'},
                                                  'add_bos_token': False}),
                       ('generation_config.json', {'eos_token_id': [1, 2]}), ('config.json', {'eos_token_id': 1})):
    (folder / name).write_text(json.dumps(stored))
  path = folder / chance.choice(['tokenizer.json', 'tokenizer_config.json', 'generation_config.json'])
  path.write_bytes(chance.choice([as_json, mutations.of_bytes])(path.read_bytes(), chance))
  return lambda: load_vocabulary(str(folder)).encode('3 1 2'), [str(folder)]


def sentencepiece(folder, chance):
  source = pathlib.Path(__file__).parents[3] / 'shared/fixtures/t5x_native/sentencepiece.model'
  if not source.exists():
    pytest.skip('no SentencePiece model')
  (folder / 'spiece.model').write_bytes(mutations.of_bytes(source.read_bytes(), chance))
  return lambda: load_vocabulary(str(folder)).encode('Hello'), [str(folder)]


def t5x(folder, chance):
  path = folder / 'checkpoint_5'
  path.mkdir()
  tree = {'version': 3, 'optimizer': {
    'target': {'a': PROMPT, 'b': {'c': {'driver': 'zarr', 'metadata': {'shape': [2], 'dtype': '<f4'},
                                        'kvstore': {'driver': 'file', 'path': 'target.b.c/'}}}},
    'state': {'step': np.asarray(5), 'param_states': {}}}}
  (path / 'checkpoint').write_bytes(mutations.of_bytes(flax.serialization.msgpack_serialize(tree), chance))

  def read():
    found = T5XCheckpoint(str(folder))
    return [found.read(name) for name in found.names()]
  return read, [str(folder)]


def run_file(folder, chance):
  settings = mutations.of_json(TRAIN, chance)
  path = folder / 'run.toml'
  try:
    path.write_text(tomli_w.dumps(settings))
  except (TypeError, AttributeError, UnicodeEncodeError, ValueError):  # TOML has no such value
    path.write_bytes(mutations.of_bytes(tomli_w.dumps(TRAIN).encode(), chance))
  words = [str(path), *(TRAIN | dict(settings if isinstance(settings, dict) else {})), *TRAIN['method']]
  return lambda: flags.run_of('train', {}, str(path)), words


def flag(folder, chance):
  given = {name: value for name, value in TRAIN.items() if isinstance(value, str | int | float)} | {
    'labels': '0=no,1=yes', 'method': 'prompt', 'length': '3', 'init': 'text', 'init.text': 'hello', 'metrics': 'f1',
    'loss.label_words': 'no,yes', 'loss': 'margin', 'buckets': '8,16'}
  name = chance.choice(list(given))
  given[name] = chance.choice([str(chance.choice(mutations.VALUES)).replace('\0', ''),
                               mutations.of_bytes(str(given[name]).encode(), chance).decode(errors='replace')])
  if chance.random() < 0.2:
    given[mutations.of_bytes(name.encode(), chance).decode(errors='replace')] = 'x'
  argv = [f'--{key}={value}' for key, value in given.items()]
  return lambda: command.parse_flags('train', argv), [*given, *map(str, given.values()), '--']


def gin_binding(folder, chance):
  given = dict(GIN)
  name = chance.choice(list(given))
  if chance.random() < 0.5:
    value = chance.choice(mutations.VALUES)
    given[name] = repr(value) if chance.random() < 0.8 else str(value)
  else:
    given[name] = mutations.of_bytes(given[name].encode(), chance).decode(errors='replace')
  argv = [*(f'--gin_file={path}' for path in GIN_FILES), *(f'--gin.{key}={value}' for key, value in given.items())]
  return lambda: launch.build('train', command.parse_flags('train', argv)), [*GIN, '=', 'gin']


def gin_file(folder, chance):
  text = '\n'.join(['import seqio', *(f'{name} = {value}' for name, value in GIN.items()), 'A = %B', 'B = 3', '# done'])
  (folder / 'user.gin').write_bytes(mutations.of_bytes(text.encode(), chance))
  argv = [*(f'--gin_file={path}' for path in GIN_FILES), f'--gin_file={folder}/user.gin']
  return lambda: launch.build('train', command.parse_flags('train', argv)), ['user.gin', *GIN, '=', 'gin']


def model(folder, chance):
  shutil.copytree(SHIPPED, folder, dirs_exist_ok=True)
  path = folder / 'config.json'
  path.write_bytes(as_json(path.read_bytes(), chance))
  return lambda: loading.load_model(str(folder)), [str(folder)]


DOORS = {
  'config_json': config_json, 'config_bytes': file_of(SHIPPED, 'config.json', mutations.of_bytes, arrays),
  'arrays': file_of(SHIPPED, 'model.safetensors', header, arrays), 'index': index, 'npy': npy, 'state': state,
  'metadata': metadata, 'adapter': adapter, 'jsonl': jsonl, 'tsv': tsv,
  'conversations': conversations, 'chat_template': chat_template, 'tokenizer': tokenizer,
  'sentencepiece': sentencepiece, 't5x': t5x, 'run_file': run_file, 'flag': flag, 'gin_binding': gin_binding,
  'gin_file': gin_file, 'model': model}
FEWER = {'model': 10, 'sentencepiece': 5, 'gin_file': 2, 'gin_binding': 2}  # slower doors
ALLOWED = (ValueError, OSError, ImportError)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('door', DOORS)
def test_a_mutated_input_is_accepted_or_a_clear_error(door, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  wrong, refused = [], 0
  for seed in range(SEED, SEED + max(5, COUNT // FEWER.get(door, 1))):
    folder = tmp_path / str(seed)
    folder.mkdir()
    read, words = DOORS[door](folder, random.Random(f'{door} {seed}'))
    try:
      with limited():
        read()
    except ALLOWED as error:
      refused += 1
      if not any(word in str(error) for word in words):
        wrong.append(f'seed {seed}: names neither path nor setting: {type(error).__name__}: {str(error)[:200]!r}')
    except BaseException as error:
      wrong.append(f'seed {seed}: {type(error).__name__}: {str(error)[:200]!r}')
    shutil.rmtree(folder)
  assert refused, 'no input was refused'
  assert not wrong, f'{len(wrong)} inputs:\n' + '\n'.join(wrong[:20])
