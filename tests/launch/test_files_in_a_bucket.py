"""What programs read from a bucket: gin files, examples, vocabularies and prompts under `gs://` addresses."""

import functools
import http.server
import json
import shutil
import threading

import numpy as np
import pytest
from test_programs import FROM_CHECKPOINT, LENGTHS

from prompt_tuning.inference import SavedPrompt

VECTORS = np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8)
ROWS = [{'inputs': '3 4 5', 'targets': '6'}, {'inputs': '7', 'targets': '8 9'}]


class _Quiet(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *arguments):
    del arguments


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """The folder that holds what is in gs://bucket."""
  handler = functools.partial(_Quiet, directory=str(tmp_path / 'store'))
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  monkeypatch.setenv('STORAGE_EMULATOR_HOST', f'http://127.0.0.1:{server.server_port}')
  (tmp_path / 'store/bucket').mkdir(parents=True)
  yield tmp_path / 'store/bucket'
  server.shutdown()
  thread.join()
  server.server_close()


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
  vocabulary = described(
    'train', '--gin.VOCABULARY=@seqio.SentencePieceVocabulary()',
    "--gin.seqio.SentencePieceVocabulary.sentencepiece_model_file='gs://bucket/sentencepiece.model'").vocabulary
  assert vocabulary.size == 32_100


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
