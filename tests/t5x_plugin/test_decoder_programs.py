"""T5X's train, eval and infer on a decoder-only model with a prompt, and the same prompts in this package."""

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
def model(frozen):
  """The same model in this package."""
  from prompt_tuning.data.vocabularies import PassThroughVocabulary
  from prompt_tuning.models import loading

  return loading.load_model(str(frozen), vocabulary=PassThroughVocabulary(128), relative_max_distance=16,
                            prefix_lm=True)


@pytest.fixture(scope='module')
def t5x_run(frozen, program, tmp_path_factory):
  """The folder of a run of T5X of three steps."""
  folder = tmp_path_factory.mktemp('decoder_run')
  given = {'MODEL_DIR': f"'{folder}'", 'TRAIN_STEPS': START + 3, 'EVAL_PERIOD': 3, 'EVAL_STEPS': 1, 'BATCH_SIZE': 8,
           'INITIAL_CHECKPOINT_PATH': f"'{frozen}'", 'utils.SaveCheckpointConfig.period': 3,
           'utils.SaveCheckpointConfig.keep': None, 'USE_CACHED_TASKS': False, 'DROPOUT_RATE': 0.0, 'RANDOM_SEED': 0}
  program('t5x.train', *TASK, f'--gin_file={CONFIGS}/runs/prompt_finetune.gin',
          *(f'--gin.{name}={value}' for name, value in given.items()))
  first, last = (np.load(folder / f'numpy_checkpoints/checkpoint_{step}/{NAME}') for step in (START, START + 3))
  assert first.shape == (5, 32) and np.abs(last - first).max() > 0.1
  return folder


@pytest.fixture(scope='module')
def our_run(model, tmp_path_factory):
  """The folder of a run of this package on the same task."""
  import toy_tasks

  import prompt_tuning

  folder = tmp_path_factory.mktemp('our_decoder_run')
  prompt_tuning.tune(model, toy_tasks.examples('train'), prompt_length=5, steps=30, batch_size=8,
                     lengths={'inputs': 10, 'targets': 6}, model_dir=str(folder), quiet=True)
  return folder


def in_t5x(program, frozen, prompt, folder, run, *flags):
  """Runs T5X's `eval` or `infer` on the validation examples with a prompt's file or folder."""
  program(f't5x.{run}', *TASK, f'--gin_file={CONFIGS}/models/decoding/greedy.gin',
          f'--gin_file={CONFIGS}/runs/prompt_{run}.gin', "--gin.utils.DatasetConfig.split='validation'",
          f"--gin.PROMPT_FILE='{prompt}'", f"--gin.CHECKPOINT_PATH='{frozen}'",
          f"--gin.{run.upper()}_OUTPUT_DIR='{folder}'", "--gin.utils.RestoreCheckpointConfig.dtype='float32'", *flags)


def texts(rows):
  """Returns T5X's predictions, padded to the length of the row, in our form: at most four tokens."""
  return [' '.join(map(str, ids[:ids.index(1)] if 1 in ids else ids)) for ids in (row[:4] for row in rows)]


@pytest.mark.parametrize('trained_by', ['t5x_run', 'our_run'])
@pytest.mark.parametrize('mode', ['score', 'predict'])
def test_both_engines_answer_alike_with_a_prompt_of_either(program, request, frozen, model, tmp_path, trained_by, mode):
  import toy_tasks

  from prompt_tuning.evaluation import saved

  run = request.getfixturevalue(trained_by)
  in_t5x(program, frozen, run, tmp_path, 'infer', f"--gin.infer.mode='{mode}'")
  (file,) = (path for path in tmp_path.glob('*.jsonl-*') if not path.name.endswith('COMPLETED'))
  theirs = [json.loads(line) for line in file.read_text().splitlines()]
  rows = toy_tasks.examples('validation')
  prompt = saved.load_prompt(str(run))
  inputs, targets = [row['inputs'] for row in rows], [row['targets'] for row in rows]
  if mode == 'score':
    np.testing.assert_allclose(model.score(inputs, targets, prompt), [row['score'] for row in theirs], atol=1e-4,
                               rtol=1e-4)
    assert np.abs(model.score(inputs, targets) - model.score(inputs, targets, prompt)).max() > 0.1
    return
  assert model.predict(inputs, prompt, max_length=4) == texts(row['prediction'] for row in theirs)


def test_t5x_judges_a_prompt_of_this_package_as_we_do(program, frozen, model, our_run, tmp_path):
  import toy_tasks

  from prompt_tuning.evaluation import saved

  in_t5x(program, frozen, our_run, tmp_path, 'eval')
  lines = (tmp_path / f'inference_eval/toy_beginnings-{START:06}.jsonl').read_text().splitlines()
  rows = toy_tasks.examples('validation')
  ours = model.predict([row['inputs'] for row in rows], saved.load_prompt(str(our_run)), max_length=4)
  assert texts(json.loads(line)['prediction'] for line in lines) == ours
