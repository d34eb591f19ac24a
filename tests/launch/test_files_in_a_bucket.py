"""Programs that read from and write to a bucket: everything except models under `gs://` addresses."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from test_programs import FROM_CHECKPOINT, LENGTHS, writing_into

from prompt_tuning.evaluation.saved import SavedPrompt
from prompt_tuning.runs import objects

VECTORS = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
ROWS = [{'inputs': '3 4 5', 'targets': '6'}, {'inputs': '7', 'targets': '8 9'}]


@pytest.fixture
def bucket(store):
  """The folder that holds the content of gs://bucket."""
  return store.folder / 'bucket'


def test_targets_in_a_bucket_are_scored_with_a_prompt_in_it(run, bucket, toy_model, toy_folder, tmp_path):
  np.save(bucket / 'prompt.npy', VECTORS)
  (bucket / 'rows.jsonl').write_text('\n'.join(map(json.dumps, ROWS)))
  (bucket / 'mine.gin').write_text("infer_script.infer.mode = 'score'\nPROMPT_LENGTH = 3\n")
  status, _, errors = run(
    'infer', *FROM_CHECKPOINT, '--gin_file=runs/prompt_infer.gin', '--gin_file=gs://bucket/mine.gin', LENGTHS,
    f"--gin.CHECKPOINT_PATH='{toy_folder}'", "--gin.PROMPT_FILE='gs://bucket/prompt.npy'",
    "--gin.MIXTURE_OR_TASK_NAME='gs://bucket/rows.jsonl'", f"--gin.INFER_OUTPUT_DIR='{tmp_path}/out'",
    "--gin.utils.RestoreCheckpointConfig.dtype='float32'")
  assert status == 0, errors
  lines = (tmp_path / 'out/rows-score.jsonl-00000-of-00001').read_text().splitlines()
  wanted = toy_model.score(*([row[key] for row in ROWS] for key in ('inputs', 'targets')), SavedPrompt(VECTORS))
  np.testing.assert_allclose([json.loads(line)['score'] for line in lines], wanted, rtol=1e-5)


def test_a_vocabulary_in_a_bucket_is_read(described, bucket, shared):
  shutil.copy(shared / 't5x_native/sentencepiece.model', bucket / 'sentencepiece.model')
  run = described(
    'train', '--gin.VOCABULARY=@seqio.SentencePieceVocabulary()',
    "--gin.seqio.SentencePieceVocabulary.sentencepiece_model_file='gs://bucket/sentencepiece.model'")
  assert objects.vocabulary(run).size == 32_100


@pytest.mark.parametrize('name, file', [('PROMPT_FILE', 'prompt.npy'), ('MIXTURE_OR_TASK_NAME', 'rows.jsonl')])
def test_what_is_not_in_the_bucket_is_named(run, bucket, toy_folder, tmp_path, name, file):
  np.save(bucket / 'prompt.npy', VECTORS)
  (bucket / 'rows.jsonl').write_text(json.dumps(ROWS[0]))
  (bucket / file).unlink()
  status, _, errors = run(
    'eval', *FROM_CHECKPOINT, '--gin_file=runs/prompt_eval.gin', f"--gin.CHECKPOINT_PATH='{toy_folder}'",
    "--gin.PROMPT_FILE='gs://bucket/prompt.npy'", "--gin.MIXTURE_OR_TASK_NAME='gs://bucket/rows.jsonl'",
    '--gin.PROMPT_LENGTH=3', "--gin.utils.DatasetConfig.split='all'", f"--gin.EVAL_OUTPUT_DIR='{tmp_path}/out'")
  assert status == 2
  assert f'gs://bucket/{file}: there is no such' in errors, name


def train_flags(model, examples, columns, folder, steps=6):
  return ['train', *FROM_CHECKPOINT, '--gin_file=runs/prompt_finetune.gin', LENGTHS, '--gin.PROMPT_LENGTH=3', *columns,
          f"--gin.MIXTURE_OR_TASK_NAME='{examples}'", f"--gin.INITIAL_CHECKPOINT_PATH='{model}'",
          f"--gin.MODEL_DIR='{folder}'", f'--gin.TRAIN_STEPS={steps}', '--gin.BATCH_SIZE=2', '--gin.EVAL_PERIOD=3',
          '--gin.RANDOM_SEED=4', '--gin.utils.SaveCheckpointConfig.period=2']


def files_in(folder):
  """Returns name -> content of all files, without times; None for files that hold only times or folders."""
  found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}
  if 'metrics.jsonl' in found:
    lines = map(json.loads, found['metrics.jsonl'].splitlines())
    found['metrics.jsonl'] = [{name: line[name] for name in line if 'per_second' not in name} for line in lines]
  return {name.partition('.out.')[0]: None if name in ('config.gin', 'run.toml') or 'events' in name else content
          for name, content in found.items()}


def test_a_run_in_a_bucket_goes_on_is_judged_there_and_answers_there(run, store, toy_folder, examples, columns,
                                                                     tmp_path):
  store.public = False
  store.failures.append(('POST bucket/run/checkpoint_4', 403))
  status, _, errors = run(*train_flags(toy_folder, examples, columns, 'gs://bucket/run'))
  assert status == 2
  assert 'gs://bucket/run/checkpoint_4/state.safetensors cannot be written: the object store refused it' in errors
  store.failures.clear()
  roots = {'gs://bucket': store.folder / 'bucket', str(tmp_path): tmp_path}
  for root in roots:
    status, _, errors = run(*train_flags(toy_folder, examples, columns, f'{root}/run'))
    assert status == 0, errors
    assert root == str(tmp_path) or 'Resumed at step 2 of 6' in errors
    common = [*FROM_CHECKPOINT, f"--gin.CHECKPOINT_PATH='{toy_folder}'", f"--gin.PROMPT_FILE='{root}/run'", LENGTHS,
              '--gin.PROMPT_LENGTH=3', f"--gin.MIXTURE_OR_TASK_NAME='{examples}'", *columns]
    for program, macro in (('eval', 'EVAL_OUTPUT_DIR'), ('infer', 'INFER_OUTPUT_DIR')):
      split = ["--gin.utils.DatasetConfig.split='validation'"] if program == 'eval' else []
      status, _, errors = run(program, *common, f'--gin_file=runs/prompt_{program}.gin', *split,
                              f"--gin.{macro}='{root}/{program}'")
      assert status == 0, errors
  for folder in ('run', 'eval', 'infer'):
    there, here = (files_in(path / folder) for path in roots.values())
    assert there == here, folder
  assert {'checkpoint_6/state.safetensors', 'inference_eval/sums.jsonl-000006.jsonl', 'train/events'} <= files_in(
    store.folder / 'bucket/run').keys()
  assert {'sums-predict.jsonl-00000-of-00001', 'sums-predict.jsonl-00000-of-00001.COMPLETED'} <= there.keys()


@pytest.mark.slow
def test_a_run_in_a_bucket_that_is_killed_while_it_saves_ends_as_a_local_one(store, toy_folder, examples, columns,
                                                                             tmp_path):
  call = lambda folder: [sys.executable, '-m', 'prompt_tuning.train',
                         *train_flags(toy_folder, examples, columns, folder, steps=8)[1:]]
  subprocess.run(call(tmp_path / 'run'), check=True)
  kills = []
  for request in ('POST bucket/run/last', 'POST bucket/run/metrics', 'POST bucket/run/checkpoint_4',
                  'DELETE bucket/run/numpy_checkpoints/checkpoint_2'):
    process = subprocess.Popen(call('gs://bucket/run'))
    store.before = lambda asked, process=process, request=request: asked.startswith(request) and os.kill(
      process.pid, signal.SIGKILL)
    kills.append(process.wait())
  assert kills == [-signal.SIGKILL] * 4
  store.before = lambda asked: None
  subprocess.run(call('gs://bucket/run'), check=True)
  assert files_in(store.folder / 'bucket/run') == files_in(tmp_path / 'run')


@pytest.mark.parametrize('program, macro', [('train', 'MODEL_DIR'), ('eval', 'EVAL_OUTPUT_DIR'),
                                            ('infer', 'INFER_OUTPUT_DIR')])
@pytest.mark.parametrize('folder, failures, answer', [
  ('gs://none/run', [], 'cannot be listed: there is no such object, or no bucket none. Give another path'),
  ('gs://bucket/run', [('bucket/run', 403)], 'cannot be listed: the object store refused it'),
  ('gs://bucket/run', [('bucket/run', 500)], 'cannot be listed: the object store failed, also on retries')])
def test_a_bucket_that_cannot_be_listed_is_an_error_before_the_work(run, store, program, macro, folder, failures,
                                                                     answer):
  store.failures += failures
  status, _, errors = run(*writing_into(program, macro, folder))
  assert status == 2
  assert f'{macro}={folder}/ {answer}' in errors
