"""The shell demos train and evaluate unchanged and offline, with a small checkpoint instead of the published one."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import prompt_tuning

SCRIPTS = pathlib.Path(prompt_tuning.__file__).parent / 'scripts'
VARIABLES = ('TFDS_DATA_DIR', 'MODEL_DIR', 'EVAL_DIR', 'PROMPT_FILE', 'CHECKPOINT', 'ENGINE')
SIZES = {'NUM_HEADS': 2, 'NUM_ENCODER_LAYERS': 2, 'NUM_DECODER_LAYERS': 2, 'HEAD_DIM': 2, 'EMBED_DIM': 4, 'MLP_DIM': 8,
         'PROMPT_LENGTH': 5, 'BATCH_SIZE': 2, 'architectures.T5.relative_buckets': 4, 'ACTIVATION_DTYPE': "'float32'",
         'TASK_FEATURE_LENGTHS': "{'inputs': 24, 'targets': 3}"}
SENTENCES = (('dull', 0), ('a gripping film', 1), ('it is a mess', 0))


def demo(name, *arguments, folder='.', **variables):
  """Runs a demo with bash and only these variables; returns exit status, output and errors."""
  environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
  environment['PATH'] = f'{pathlib.Path(sys.executable).parent}:{environment["PATH"]}'
  environment['PYTHONPATH'] = str(SCRIPTS.parents[1])
  environment |= {key: str(value) for key, value in variables.items()}
  done = subprocess.run(['bash', str(SCRIPTS / name), *arguments], env=environment, cwd=folder, capture_output=True,
                        text=True)
  return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope='module')
def sst2(tmp_path_factory):
  """A TFDS_DATA_DIR with a small SST-2."""
  pytest.importorskip('tensorflow_datasets', reason="TFDS is not installed: pip install '.[seqio]'")
  from tensorflow_datasets.text import glue

  sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'data'))
  try:
    import tfds_folders
  finally:
    sys.path.pop(0)
  folder = tmp_path_factory.mktemp('tfds')
  features = glue.Glue(config='sst2', version='2.0.0', data_dir=folder / 'none').info.features
  rows = [{'sentence': text, 'label': label, 'idx': index} for index, (text, label) in enumerate(SENTENCES)]
  tfds_folders.store(folder, 'glue/sst2:2.0.0', features, {'train': rows, 'validation': rows[:2]})
  return folder


@pytest.mark.slow
def test_a_prompt_is_trained_from_the_class_labels_and_judged(sst2, shared, tmp_path):
  native = shared / 't5x_native'
  toy = [f'--gin.{name}={value}' for name, value in SIZES.items()]
  toy.append(f"--gin.seqio.SentencePieceVocabulary.sentencepiece_model_file='{native}/sentencepiece.model'")
  given = {'folder': tmp_path, 'CHECKPOINT': native / 'checkpoint_3', 'TFDS_DATA_DIR': sst2,
           'XDG_CACHE_HOME': tmp_path / 'cache'}

  status, printed, errors = demo('sst2-demo.sh', *toy, '--gin.TRAIN_STEPS=5', MODEL_DIR='run', **given)
  assert status == 0, errors
  assert 'Started at step 3 of 5: 20 trained parameters' in errors  # its log
  prompt = np.load(tmp_path / 'run/numpy_checkpoints/checkpoint_5/encoder.prompt.prompt.prompt')
  assert prompt.shape == (5, 4)

  status, printed, errors = demo('sst2-demo-eval.sh', *toy, EVAL_DIR='judged', PROMPT_FILE='run', **given)
  assert status == 0, errors
  assert 'taskless_glue_sst2_v200_examples, 2 examples: accuracy' in printed
  answers = tmp_path / 'judged/inference_eval/taskless_glue_sst2_v200_examples-000005.jsonl'
  asked = [json.loads(line)['input']['inputs_pretokenized'] for line in answers.read_text().splitlines()]
  assert asked == [f'sentence: {text}' for text, _ in SENTENCES[:2]]


# The second calls the first.
@pytest.mark.parametrize('name', [pytest.param('sst2-demo-xxl.sh', marks=pytest.mark.slow), 'sst2-xxl-demo.sh'])
def test_both_names_of_the_largest_demo_plan_the_largest_model(name, tmp_path):
  status, printed, errors = demo(name, '--dry_run', '--gin.PROMPT_LENGTH=7', folder=tmp_path, MODEL_DIR='run',
                                 TFDS_DATA_DIR=tmp_path, CHECKPOINT=tmp_path / 'xxl')
  assert '11,135,332,352 frozen parameters, 22.3 GB as bfloat16' in printed
  assert f'{tmp_path}/xxl: there is no such folder' in errors
  assert status == 2, 'the status of the program is that of the script'


@pytest.mark.parametrize('name', ['sst2-demo.sh', 'sst2-demo-eval.sh'])
def test_an_unknown_engine_is_named_with_those_that_exist(name, tmp_path):
  given = {'MODEL_DIR': 'run', 'EVAL_DIR': 'out', 'PROMPT_FILE': 'prompt', 'TFDS_DATA_DIR': 'data', 'ENGINE': 'torch'}
  status, printed, errors = demo(name, folder=tmp_path, **given)
  assert (status, printed) == (1, '')
  assert 'ENGINE is torch. Set it to prompt_tuning or t5x.' in errors


@pytest.mark.parametrize('name, given, missing', [
  ('sst2-demo.sh', {}, 'MODEL_DIR: is not set. Set it to the folder of the run'),
  ('sst2-demo.sh', {'MODEL_DIR': 'run'}, 'TFDS_DATA_DIR: is not set. Set it to'),
  ('sst2-demo-xxl.sh', {'TFDS_DATA_DIR': 'data'}, 'MODEL_DIR: is not set'),
  ('sst2-demo-eval.sh', {}, 'EVAL_DIR: is not set'),
  ('sst2-demo-eval.sh', {'EVAL_DIR': 'out'}, 'TFDS_DATA_DIR: is not set'),
  ('sst2-demo-eval.sh', {'EVAL_DIR': 'out', 'TFDS_DATA_DIR': 'data'},
   'PROMPT_FILE: is not set. Released prompts are not part of this package: download one'),
])
def test_a_missing_variable_is_named_before_anything_is_loaded(name, given, missing):
  status, printed, errors = demo(name, **given)
  assert (status, printed) == (1, '')
  assert missing in errors


def test_every_demo_can_be_started_by_its_name():
  assert all(os.access(path, os.X_OK) for path in SCRIPTS.glob('*.sh'))
