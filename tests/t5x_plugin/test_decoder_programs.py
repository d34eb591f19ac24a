"""T5X's train and infer on a decoder-only model with a prompt, and the same prompt in this package."""

import dataclasses
import json

import numpy as np
import pytest

CONFIGS = 'prompt_tuning/t5x_plugin/configs'
NAME = 'decoder.prompt.prompt.prompt'
START = 100
TASK = ["--gin.MIXTURE_OR_TASK_NAME='toy_beginnings'", "--gin.MIXTURE_OR_TASK_MODULE='toy_tasks'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 10, 'targets': 6}",
        f'--gin_file={CONFIGS}/models/decoder_only_prompt.gin',
        '--gin.models.DecoderOnlyModel.inputs_bidirectional_attention=True']


@pytest.fixture(scope='module')
def frozen(shared, tmp_path_factory):
  """The golden decoder-only model without its prompt, as a checkpoint of T5X."""
  from prompt_tuning.checkpoints.t5x import write_t5x

  folder = tmp_path_factory.mktemp('decoder_only')
  arrays = dict(np.load(shared / 't5x/e_decoder_only/params.npz'))
  del arrays[NAME.replace('.', '/')]
  write_t5x(str(folder), START, arrays)
  return folder / f'checkpoint_{START}'


@pytest.fixture(scope='module')
def prompt_file(frozen, program, tmp_path_factory):
  """The prompt of a run of T5X of three steps."""
  folder = tmp_path_factory.mktemp('decoder_run')
  given = {'MODEL_DIR': f"'{folder}'", 'TRAIN_STEPS': START + 3, 'EVAL_PERIOD': 3, 'EVAL_STEPS': 1, 'BATCH_SIZE': 8,
           'INITIAL_CHECKPOINT_PATH': f"'{frozen}'", 'utils.SaveCheckpointConfig.period': 3,
           'USE_CACHED_TASKS': False, 'DROPOUT_RATE': 0.0, 'RANDOM_SEED': 0}
  program('t5x.train', *TASK, f'--gin_file={CONFIGS}/runs/prompt_finetune.gin',
          *(f'--gin.{name}={value}' for name, value in given.items()))
  first, last = (np.load(folder / f'numpy_checkpoints/checkpoint_{step}/{NAME}') for step in (START, START + 3))
  assert first.shape == (5, 32) and np.abs(last - first).max() > 0.1
  return folder / f'numpy_checkpoints/checkpoint_{START + 3}/{NAME}'


@pytest.fixture(scope='module')
def model(frozen):
  """The same model in this package."""
  from prompt_tuning.data.vocabularies import PassThroughVocabulary
  from prompt_tuning.models import loading

  config = dataclasses.replace(loading.load_model(str(frozen)).module.config, relative_max_distance=16, prefix_lm=True)
  return dataclasses.replace(loading.load_model(str(frozen), config=config), vocabulary=PassThroughVocabulary(128))


@pytest.mark.parametrize('mode', ['score', 'predict'])
def test_both_engines_answer_alike(program, frozen, prompt_file, model, tmp_path, mode):
  import toy_tasks

  from prompt_tuning import inference

  program('t5x.infer', *TASK, f'--gin_file={CONFIGS}/models/decoding/greedy.gin',
          f'--gin_file={CONFIGS}/runs/prompt_infer.gin', "--gin.utils.DatasetConfig.split='validation'",
          f"--gin.PROMPT_FILE='{prompt_file}'", f"--gin.CHECKPOINT_PATH='{frozen}'",
          f"--gin.INFER_OUTPUT_DIR='{tmp_path}'", "--gin.utils.RestoreCheckpointConfig.dtype='float32'",
          f"--gin.infer.mode='{mode}'")
  (file,) = (path for path in tmp_path.glob('*.jsonl-*') if not path.name.endswith('COMPLETED'))
  theirs = [json.loads(line) for line in file.read_text().splitlines()]
  rows = toy_tasks.examples('validation')
  prompt = inference.load_prompt(str(prompt_file))
  inputs, targets = [f'0 {row["inputs"]} 1' for row in rows], [row['targets'] for row in rows]  # as T5X does
  if mode == 'score':
    np.testing.assert_allclose(model.score(inputs, targets, prompt), [row['score'] for row in theirs], atol=1e-4,
                               rtol=1e-4)
    return
  found = [[int(token) for token in text.split()] for text in model.predict(inputs, prompt, max_length=4)]
  wanted = [row['prediction'][:4] for row in theirs]
  assert found == [ids[:ids.index(1)] if 1 in ids else ids for ids in wanted]
