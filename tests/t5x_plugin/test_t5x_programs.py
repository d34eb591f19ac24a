"""T5X's own train, eval and infer with a prompt, and the same prompts in this package's programs."""

import functools
import json
import re

import numpy as np
import pytest

CONFIGS = 'prompt_tuning/t5x_plugin/configs'
START = 1234  # the step of the golden checkpoint
NAME = 'encoder.prompt.prompt.prompt'
TASK = ["--gin.MIXTURE_OR_TASK_NAME='toy_beginnings'", "--gin.MIXTURE_OR_TASK_MODULE='toy_tasks'",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 10, 'targets': 6}"]
SPLIT = "--gin.utils.DatasetConfig.split='validation'"
OUR_SHAPE = [f'--gin.{name}={value}' for name, value in {
  'NUM_HEADS': 4, 'NUM_ENCODER_LAYERS': 2, 'NUM_DECODER_LAYERS': 2, 'HEAD_DIM': 8, 'EMBED_DIM': 32, 'MLP_DIM': 64,
  'NUM_EMBEDDINGS': 128, 'architectures.T5.relative_buckets': 8, 'architectures.T5.relative_max_distance': 16,
  'seqio.PassThroughVocabulary.size': 128, 'ACTIVATION_DTYPE': "'float32'", 'PROMPT_LENGTH': 5,
  'VOCABULARY': '@seqio.PassThroughVocabulary()'}.items()]


def train_flags(shared, folder, steps, checkpoint):
  given = {'MODEL_DIR': f"'{folder}'", 'TRAIN_STEPS': START + steps, 'EVAL_PERIOD': 2, 'EVAL_STEPS': 1,
           'INITIAL_CHECKPOINT_PATH': f"'{shared}/t5x/d_small/{checkpoint}/checkpoint_{START}'",
           'utils.SaveCheckpointConfig.period': 2, 'utils.SaveCheckpointConfig.keep': None,
           'USE_CACHED_TASKS': False, 'BATCH_SIZE': 8, 'DROPOUT_RATE': 0.0, 'RANDOM_SEED': 0}
  files = ['models/t5_1_1_prompt.gin', 'prompts/from_sampled_vocab.gin', 'runs/prompt_finetune.gin']
  return [*(f'--gin_file={CONFIGS}/{file}' for file in files), *TASK,
          *(f'--gin.{name}={value}' for name, value in given.items())]


@pytest.fixture(scope='session')
def t5x_run(shared, program, tmp_path_factory):
  """Returns the folder of a run of T5X of two steps that was resumed for two more, in a format of checkpoints."""

  @functools.cache
  def run(form):
    folder = tmp_path_factory.mktemp('t5x_run')
    for steps in (2, 4):
      program('t5x.train', *train_flags(shared, folder, steps, f'ckpt_{form}'),
              f'--gin.train.use_orbax={form == "orbax"}')
    return folder

  return run


@pytest.fixture(params=['orbax', 'native'])
def run_folder(request, t5x_run):
  """A run of T5X with each of its formats."""
  return t5x_run(request.param)


def prompt_of(folder, steps):
  return np.load(folder / f'numpy_checkpoints/checkpoint_{START + steps}/{NAME}')


def test_a_run_saves_its_prompt_beside_each_checkpoint_and_goes_on(run_folder):
  first, middle, last = (prompt_of(run_folder, steps) for steps in (0, 2, 4))
  assert first.shape == (5, 32) and first.dtype == np.float32
  assert np.abs(middle - first).max() > 0.1
  assert np.abs(last - middle).max() > 0.1
  assert (run_folder / f'checkpoint_{START + 4}').is_dir()


def test_the_first_values_are_rows_of_the_embedding(run_folder, shared):
  rows = np.load(shared / 't5x/d_small/params.npz')['token_embedder/embedding']
  assert all((row == rows).all(1).any() for row in prompt_of(run_folder, 0))


def test_frozen_parameters_are_unchanged_and_the_prompt_in_the_checkpoint_is_the_saved_one(run_folder, shared):
  from prompt_tuning.models.loading import open_checkpoint

  reader = open_checkpoint(str(run_folder / f'checkpoint_{START + 4}'))
  before = np.load(shared / 't5x/d_small/params.npz')
  for name in before.files:
    np.testing.assert_array_equal(reader.read(name), before[name], err_msg=name)
  np.testing.assert_array_equal(reader.read(NAME.replace('.', '/')), prompt_of(run_folder, 4))


def test_model_info_shows_a_state_for_the_prompt_only(run_folder):
  info = (run_folder / 'model-info.txt').read_text()
  assert re.search(r'Variable encoder/prompt/prompt/prompt\s+size 160', info)
  assert {*re.findall(r'Variable param_states/(\S+)/', info)} == {NAME.replace('.', '/')}


@pytest.fixture(scope='session')
def our_run(shared, program, tmp_path_factory):
  """The folder of a run of this package's own programs on the same task."""
  folder = tmp_path_factory.mktemp('our_run')
  program('prompt_tuning.train', '--gin_file=models/t5_1_1_prompt.gin', '--gin_file=prompts/from_sampled_vocab.gin',
          '--gin_file=runs/prompt_finetune.gin', *OUR_SHAPE, *TASK, f"--gin.MODEL_DIR='{folder}'",
          f"--gin.INITIAL_CHECKPOINT_PATH='{shared}/t5x/d_small/ckpt_native/checkpoint_{START}'",
          f'--gin.TRAIN_STEPS={START + 2}', '--gin.BATCH_SIZE=8', '--gin.USE_CACHED_TASKS=False')
  return folder


def answers(program, engine, prompt, shared, folder, mode):
  """Returns the lines that one engine's `infer` writes for the validation examples."""
  flags = [*TASK, SPLIT, f"--gin.PROMPT_FILE='{prompt}'", f"--gin.INFER_OUTPUT_DIR='{folder}'",
           f"--gin.CHECKPOINT_PATH='{shared}/t5x/d_small/ckpt_native/checkpoint_{START}'",
           "--gin.utils.RestoreCheckpointConfig.dtype='float32'", f"--gin.infer_script.infer.mode='{mode}'"]
  if engine == 't5x':
    flags[-1] = f"--gin.infer.mode='{mode}'"
    program('t5x.infer', f'--gin_file={CONFIGS}/models/t5_1_1_prompt.gin',
            f'--gin_file={CONFIGS}/runs/prompt_infer.gin', *flags)
  else:
    program('prompt_tuning.infer', '--gin_file=models/t5_1_1_prompt.gin', '--gin_file=runs/prompt_infer.gin',
            *OUR_SHAPE, *flags)
  (file,) = (path for path in folder.glob('*.jsonl-*') if not path.name.endswith('COMPLETED'))
  return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize('trained_by', ['t5x', 'prompt_tuning'])
@pytest.mark.parametrize('mode', ['score', 'predict_with_aux'])
def test_both_engines_answer_alike_with_a_prompt_of_either(program, shared, request, tmp_path, trained_by, mode):
  prompt = (request.getfixturevalue('our_run') if trained_by == 'prompt_tuning' else
            request.getfixturevalue('t5x_run')('orbax') / f'numpy_checkpoints/checkpoint_{START + 4}/{NAME}')
  theirs, ours = (answers(program, engine, prompt, shared, tmp_path / engine, mode)
                  for engine in ('t5x', 'prompt_tuning'))
  assert len(theirs) == len(ours) == 6
  if mode == 'score':
    np.testing.assert_allclose([row['score'] for row in ours], [row['score'] for row in theirs], rtol=1e-4, atol=1e-4)
  else:
    ids = [' '.join(str(token) for token in row['prediction'] if token > 1) for row in theirs]
    assert [row['prediction'] for row in ours] == ids
    np.testing.assert_allclose([row['aux']['scores'] for row in ours], [row['aux']['scores'] for row in theirs],
                               atol=1e-4)


def predictions(folder, step):
  lines = (folder / f'inference_eval/toy_beginnings-{step:06}.jsonl').read_text().splitlines()
  return [json.loads(line)['prediction'] for line in lines]


@pytest.mark.parametrize('source', ['file', 'checkpoint'])
def test_eval_judges_a_prompt_as_training_did(program, t5x_run, shared, tmp_path, source):
  run = t5x_run('orbax')
  given, step = {
    'file': ([f'--gin_file={CONFIGS}/runs/prompt_eval.gin',
              f"--gin.PROMPT_FILE='{run}/numpy_checkpoints/checkpoint_{START + 4}/{NAME}'",
              f"--gin.CHECKPOINT_PATH='{shared}/t5x/d_small/ckpt_native/checkpoint_{START}'"], START),
    'checkpoint': (['--gin_file=t5x/configs/runs/eval.gin', '--gin.utils.RestoreCheckpointConfig.assignment_map=None',
                    '--gin.utils.RestoreCheckpointConfig.fallback_to_scratch=False',
                    f"--gin.CHECKPOINT_PATH='{run}/checkpoint_{START + 4}'"], START + 4)}[source]
  program('t5x.eval', f'--gin_file={CONFIGS}/models/t5_1_1_prompt.gin', *given, *TASK[:2], SPLIT,
          f"--gin.EVAL_OUTPUT_DIR='{tmp_path}'")
  found = predictions(tmp_path, step)
  assert found == predictions(run, START + 4) and len(found) == 6
