"""The published prompts for T5 1.1 LM-adapted base, with a model of the same shape."""

import json
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import flax.serialization
import numpy as np
import pytest

from prompt_tuning import trees
from prompt_tuning.evaluation import saved
from prompt_tuning.models import loading
from prompt_tuning.models.language_model import LanguageModel
from prompt_tuning.models.t5 import T5, T5Config
from prompt_tuning.programs import command
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility

BASE = T5Config(vocab_size=32128, width=768, heads=12, head_dim=64, mlp_dim=2048, encoder_layers=12, decoder_layers=12)
NORMS = {'sst2': 14347.524, 'mrpc': 8950.930, 'rte': 9561.628}  # computed with NumPy only


@pytest.mark.parametrize('task', NORMS)
def test_a_published_prompt_is_loaded_whole(shared, task):
  prompt = saved.load_prompt(str(shared / 'released_prompts' / f'{task}.npy'))
  assert (prompt.vectors.shape, prompt.vectors.dtype) == ((100, 768), np.float32)
  assert (prompt.placement, prompt.visibility) == (layouts.before, Visibility())
  np.testing.assert_allclose(np.linalg.norm(prompt.vectors), NORMS[task], rtol=1e-5)


@pytest.fixture(scope='module')
def outline(tmp_path_factory) -> pathlib.Path:
  """A T5X checkpoint of the base model that only lists its arrays, which is enough for a dry run."""
  folder = tmp_path_factory.mktemp('base') / 'checkpoint_1100000'
  folder.mkdir()
  listed = {}
  for path, array in loading.parameter_shapes(T5(BASE)).items():
    stacked = trees.is_stacked(path)
    for layer in range(array.shape[0]) if stacked else [None]:
      name = path if layer is None else trees.layer_name(path, layer)
      listed[name] = {
        'driver': 'zarr', 'dtype': 'float32',
        'kvstore': {'driver': 'file', 'path': f'target.{name.replace("/", ".")}/'},
        'metadata': {'shape': list(array.shape[1:] if stacked else array.shape)}}
  (folder / 'checkpoint').write_bytes(flax.serialization.msgpack_serialize({'version': 3, 'optimizer': {
    'target': trees.unflatten(listed), 'state': {'step': np.int32(1_100_000)}}}))
  return folder


@pytest.mark.parametrize('task', NORMS)
def test_a_published_prompt_fits_the_base_model(shared, outline, task, tmp_path, capsys):
  (tmp_path / 'reviews.jsonl').write_text(json.dumps({'inputs': 'it is good', 'targets': 'positive'}))
  assert command.run('eval', [
    '--gin_file=models/t5_1_1_base_prompt.gin', '--gin_file=prompts/from_file.gin', '--gin_file=runs/prompt_eval.gin',
    f"--gin.PROMPT_FILE='{shared}/released_prompts/{task}.npy'", f"--gin.CHECKPOINT_PATH='{outline}'",
    f"--gin.seqio.SentencePieceVocabulary.sentencepiece_model_file='{shared}/t5x_native/sentencepiece.model'",
    f"--gin.MIXTURE_OR_TASK_NAME='{tmp_path}/reviews.jsonl'", f"--gin.EVAL_OUTPUT_DIR='{tmp_path}/out'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 8}", "--gin.utils.DatasetConfig.split='all'",
    '--gin.BATCH_SIZE=128', '--dry_run']) == 0
  printed = capsys.readouterr().out
  assert 'Handed to the model: encoder/prompt/prompt/prompt (100, 768)' in printed
  assert '247,577,856 frozen parameters' in printed
  assert 'encoder [128, 612], decoder [128, 8]' in printed


@pytest.fixture
def stand_in(tmp_path):
  """A model with the base model's shapes and step and small random weights, in T5X's layout."""
  random = np.random.default_rng(0)
  scale = {'embedding': 1.0, 'scale': 0.0}
  flat = {path: random.standard_normal(array.shape, np.float32) * scale.get(path.rsplit('/', 1)[1], 0.02) + (
    path.endswith('scale')) for path, array in loading.parameter_shapes(T5(BASE)).items()}
  model = LanguageModel(T5(BASE), trees.unflatten(flat), None, 'random', 1_100_000)
  loading.save_model(model, str(tmp_path / 'base'), layout='t5x')
  yield tmp_path / 'base/checkpoint_1100000'
  shutil.rmtree(tmp_path / 'base')  # a gigabyte


@pytest.mark.slow
def test_a_published_prompt_is_evaluated_end_to_end_with_a_model_of_the_true_size(
    shared, stand_in, tmp_path, users_environment):
  """With the real checkpoint and data, this command gives the published accuracy, 95.07."""
  pytest.importorskip('tensorflow_datasets')
  from tensorflow_datasets.text import glue as tfds_glue
  sys.path.insert(0, str(pathlib.Path(__file__).parent / 'data'))
  import tfds_folders

  features = tfds_glue.Glue(config='sst2', data_dir=tmp_path / 'none').info.features
  sentences = [('it confirms fincher ’s status as a film maker', 1), ('dull', 0), ('a charming journey', 1)]
  rows = [{'sentence': f'{text} {i}', 'label': label, 'idx': i} for i, (text, label) in enumerate(4 * sentences)]
  tfds_folders.store(tmp_path / 'tfds', 'glue/sst2:2.0.0', features, {
    'train': rows, 'validation': rows, 'test': [row | {'label': -1} for row in rows]})
  began = time.monotonic()
  run = subprocess.run([
    sys.executable, '-m', 'prompt_tuning.eval',
    '--gin_file=prompt_tuning/configs/models/t5_1_1_base_prompt.gin',
    '--gin_file=prompt_tuning/configs/prompts/from_file.gin', '--gin_file=prompt_tuning/configs/runs/prompt_eval.gin',
    f"--gin.PROMPT_FILE='{shared}/released_prompts/sst2.npy'", f"--gin.CHECKPOINT_PATH='{stand_in}'",
    f"--gin.seqio.SentencePieceVocabulary.sentencepiece_model_file='{shared}/t5x_native/sentencepiece.model'",
    "--gin.MIXTURE_OR_TASK_NAME='taskless_glue_sst2_v200_examples'",
    "--gin.MIXTURE_OR_TASK_MODULE='prompt_tuning.data.glue'", f"--gin.EVAL_OUTPUT_DIR='{tmp_path}/out'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 8}", "--gin.utils.DatasetConfig.split='validation'",
    '--gin.BATCH_SIZE=128', f'--tfds_data_dir={tmp_path}/tfds'], env=users_environment,
    capture_output=True, text=True)
  seconds, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
  assert run.returncode == 0, run.stderr
  print(f'\n{seconds:.0f} s, {peak:.2f} GiB\n{run.stdout}')
  folder = tmp_path / 'out/inference_eval'
  name = 'taskless_glue_sst2_v200_examples'
  figures = json.loads((folder / f'{name}-metrics.jsonl').read_text())
  assert figures['step'] == 1_100_000
  assert 0.0 <= figures['accuracy'] <= 100.0
  lines = [json.loads(line) for line in (folder / f'{name}-1100000.jsonl').read_text().splitlines()]
  assert [line['input']['targets_pretokenized'] for line in lines] == 4 * ['positive', 'negative', 'positive']
  assert all(isinstance(line['output'], str) for line in lines)
  written = {path.name for path in folder.parent.iterdir()}
  assert written == {'config.gin', 'run.toml', 'model-info.txt', 'inference_eval'}
  assert peak < 6.0
