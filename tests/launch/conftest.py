"""A toy checkpoint, and functions that run the command line in this process."""

import json
import pathlib

import pytest

from prompt_tuning.programs import command

SHAPE = {'NUM_HEADS': 2, 'NUM_ENCODER_LAYERS': 3, 'NUM_DECODER_LAYERS': 2, 'HEAD_DIM': 5, 'EMBED_DIM': 8, 'MLP_DIM': 12,
         'NUM_EMBEDDINGS': 40}
RUN_FILES = {'train': 'runs/prompt_finetune.gin', 'eval': 'runs/prompt_eval.gin', 'infer': 'runs/prompt_infer.gin'}
NEEDED = {'train': {'MODEL_DIR': "'run'", 'INITIAL_CHECKPOINT_PATH': "'there'", 'TRAIN_STEPS': '80'},
          'eval': {'CHECKPOINT_PATH': "'there'", 'EVAL_OUTPUT_DIR': "'out'", 'PROMPT_FILE': "'prompt'"},
          'infer': {'CHECKPOINT_PATH': "'there'", 'INFER_OUTPUT_DIR': "'out'", 'PROMPT_FILE': "'prompt'"}}
DATA = {'MIXTURE_OR_TASK_NAME': "'Add1'", 'TASK_FEATURE_LENGTHS': "{'inputs': 9, 'targets': 5}"}
LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 9, 'targets': 5}"


@pytest.fixture(scope='session')
def toy_shape() -> list[str]:
  """Overrides that make any model file toy-sized, with token ids as texts."""
  return [f'--gin.{name}={value}' for name, value in SHAPE.items()] + [
    "--gin.ACTIVATION_DTYPE='float32'", '--gin.VOCABULARY=@seqio.PassThroughVocabulary()',
    '--gin.seqio.PassThroughVocabulary.size=40']


@pytest.fixture(scope='session')
def toy_model():
  """A T5 with random weights in the shape of `toy_shape`."""
  from prompt_tuning.data.vocabularies import PassThroughVocabulary
  from prompt_tuning.models.loading import random_model
  from prompt_tuning.models.t5 import T5Config

  config = T5Config(vocab_size=40, width=8, heads=2, head_dim=5, mlp_dim=12, encoder_layers=3, decoder_layers=2)
  return random_model(config, vocabulary=PassThroughVocabulary(40))


@pytest.fixture(scope='session')
def toy_t5x(toy_model, tmp_path_factory) -> pathlib.Path:
  """Its T5X checkpoint, saved at step 70."""
  import dataclasses

  from prompt_tuning.models.loading import save_model

  folder = tmp_path_factory.mktemp('t5x')
  save_model(dataclasses.replace(toy_model, step=70), str(folder), layout='t5x')
  return folder / 'checkpoint_70'


@pytest.fixture(scope='session')
def toy_folder(toy_model, tmp_path_factory) -> pathlib.Path:
  """Its Hugging Face folder, without a tokenizer."""
  from prompt_tuning.models.loading import save_model

  folder = tmp_path_factory.mktemp('models') / 'toy'
  save_model(toy_model, str(folder))
  return folder


@pytest.fixture
def examples(tmp_path) -> pathlib.Path:
  """A JSONL file with the columns `question` and `answer`."""
  path = tmp_path / 'sums.jsonl'
  path.write_text('\n'.join(json.dumps({'question': f'{7 + i} {11 + i}', 'answer': i % 2}) for i in range(20)))
  return path


@pytest.fixture
def columns() -> list[str]:
  """Overrides that define a task by the columns of `examples`."""
  return ["--gin.files.FileTask.inputs='3 {question}'", "--gin.files.FileTask.targets='{answer}'",
          "--gin.files.FileTask.labels={'0': '20', '1': '21'}"]


@pytest.fixture
def build():
  """Returns a function `(program, *arguments) -> the run of these arguments`."""
  from prompt_tuning.programs import launch

  return lambda program, *arguments: launch.build(program, command.parse_flags(program, arguments))[0]


@pytest.fixture
def described(build, toy_shape):
  """Returns a function `(program, *arguments) -> the run`, for a model of the shape of `toy_shape`."""

  def describe(program, *arguments, files=()):
    values = {**NEEDED[program], **DATA}
    typed = {argument.partition('=')[0] for argument in arguments}
    given = [f'--gin.{name}={value}' for name, value in values.items() if f'--gin.{name}' not in typed]
    used = ('models/t5_1_1_prompt.gin', *files, RUN_FILES[program])
    other = '--gin.VOCABULARY' in typed and not any('PassThrough' in each for each in arguments)
    shape = [each for each in toy_shape if not (other and 'PassThrough' in each)]
    return build(program, *(f'--gin_file={file}' for file in used), *shape, *given, *arguments)

  return describe


@pytest.fixture(scope='session')
def cache(tmp_path_factory) -> pathlib.Path:
  """A folder for compiled programs, in place of the user's."""
  return tmp_path_factory.mktemp('cache')


@pytest.fixture
def run(capsys, monkeypatch, cache):
  """Returns a function `(program, *arguments) -> exit status, output, errors`."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(cache))

  def call(program: str, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = command.run(program, arguments)
    printed = capsys.readouterr()
    return status, printed.out, printed.err

  return call
