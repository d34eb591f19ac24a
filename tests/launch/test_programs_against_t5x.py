"""Results of train and infer from T5X's own checkpoints, compared with T5X's results."""

import json

import golden_models
import numpy as np
import pytest

from prompt_tuning.checkpoints.t5x import write_t5x

SHAPES = {
  'own': {'NUM_HEADS': 3, 'NUM_ENCODER_LAYERS': 2, 'NUM_DECODER_LAYERS': 4, 'HEAD_DIM': 5, 'EMBED_DIM': 10,
          'MLP_DIM': 14, 'NUM_EMBEDDINGS': 37, 'architectures.T5.relative_buckets': 8,
          'architectures.T5.relative_max_distance': 11, 'seqio.PassThroughVocabulary.size': 37},
  'tiny': {'NUM_HEADS': 2, 'NUM_ENCODER_LAYERS': 2, 'NUM_DECODER_LAYERS': 2, 'HEAD_DIM': 2, 'EMBED_DIM': 4,
           'MLP_DIM': 8, 'architectures.T5.relative_buckets': 4, 'architectures.T5.relative_max_distance': 8,
           'seqio.PassThroughVocabulary.size': 32128},
  'small': {'NUM_HEADS': 4, 'NUM_ENCODER_LAYERS': 2, 'NUM_DECODER_LAYERS': 2, 'HEAD_DIM': 8, 'EMBED_DIM': 32,
            'MLP_DIM': 64, 'NUM_EMBEDDINGS': 128, 'architectures.T5.relative_buckets': 8,
            'architectures.T5.relative_max_distance': 16, 'seqio.PassThroughVocabulary.size': 128},
}


def model_flags(name):
  common = {'ACTIVATION_DTYPE': "'float32'", 'PROMPT_LENGTH': 6 if name == 'own' else 5,
            'VOCABULARY': '@seqio.PassThroughVocabulary()'}
  return ['--gin_file=models/t5_1_1_prompt.gin', *(
    f'--gin.{macro}={value}' for macro, value in (SHAPES[name] | common).items())]


def write_table(path, golden):
  """Writes the golden batch as texts of ids, without the end tokens, which the program adds."""
  text_of = lambda row: ' '.join(str(token) for token in row if token > 1)
  path.write_text('\n'.join(json.dumps({'inputs': text_of(inputs), 'targets': text_of(targets)}) for inputs, targets in
                            zip(golden['encoder_input_tokens'], golden['decoder_target_tokens'], strict=True)))
  return path


@pytest.mark.parametrize('name', ['own', pytest.param('tiny', marks=pytest.mark.slow)])
def test_train_takes_t5xs_first_steps_from_t5xs_checkpoint(run, tmp_path, name):
  if name == 'own':  # rounding errors grow faster there
    golden, steps = np.load(golden_models.t5x_files(name).training), 3
    checkpoint = write_t5x(str(tmp_path / 'frozen'), 3, dict(np.load(golden_models.t5x_files(name).params)))
  else:
    shared = golden_models.shared_folder()
    golden, steps = np.load(shared / 't5x/c_train_tiny/golden.npz'), 5
    checkpoint = shared / 't5x_native/checkpoint_3'
  np.save(tmp_path / 'prompt.npy', golden['prompt0'])
  count, inputs = golden['encoder_input_tokens'].shape
  rows = write_table(tmp_path / 'rows.jsonl', golden)
  status, _, errors = run(
    'train', *model_flags(name), '--gin_file=prompts/from_file.gin', '--gin_file=runs/prompt_finetune.gin',
    f"--gin.PROMPT_FILE='{tmp_path}/prompt.npy'", f"--gin.MIXTURE_OR_TASK_NAME='{rows}'",
    f"--gin.INITIAL_CHECKPOINT_PATH='{checkpoint}'", f"--gin.MODEL_DIR='{tmp_path}/run'",
    f"--gin.TASK_FEATURE_LENGTHS={{'inputs': {inputs}, 'targets': {golden['decoder_target_tokens'].shape[1]}}}",
    f'--gin.BATCH_SIZE={count}', '--gin.DROPOUT_RATE=0.0', f'--gin.TRAIN_STEPS={3 + steps}',
    "--gin.train/utils.DatasetConfig.split='all'", '--gin.utils.SaveCheckpointConfig.period=1',
    '--gin.utils.SaveCheckpointConfig.keep=None', '--gin.train_script.train.log_period=1',
    '--gin.train_script.train.train_eval_dataset_cfg=None', '--gin.train_script.train.infer_eval_dataset_cfg=None')
  assert status == 0, errors
  for step in range(4, 4 + steps):
    found = np.load(tmp_path / f'run/numpy_checkpoints/checkpoint_{step}/encoder.prompt.prompt.prompt')
    wanted = golden['start3_prompts'][step - 3]
    assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)
  figures = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
  tokens = golden['decoder_loss_weights'].sum()
  np.testing.assert_allclose([line['loss'] * tokens for line in figures], golden['start3_loss'][:steps], rtol=1e-4)
  np.testing.assert_allclose([line['z_loss'] * tokens for line in figures], golden['start3_z_loss'][:steps], rtol=1e-4)
  assert all(line['learning_rate'] == pytest.approx(0.3) for line in figures)


BEAMS = ['--gin_file=models/decoding/beam_search.gin']


@pytest.mark.parametrize(('source', 'kind', 'mode', 'decoding', 'name'), [
  ('own', 'prompt', 'score', [], 'score_batch'), ('own', 'prompt', 'predict_with_aux', BEAMS, 'beam4_a06'),
  ('small', 'plain', 'score', [], 'score_batch'), ('small', 'plain', 'predict_with_aux', [], 'beam1_a06'),
  *(pytest.param('small', *each, marks=pytest.mark.slow) for each in (
    ('plain', 'predict_with_aux', BEAMS, 'beam4_a06'), ('prompt', 'score', [], 'score_batch'),
    ('prompt', 'predict_with_aux', [], 'beam1_a06'), ('prompt', 'predict_with_aux', BEAMS, 'beam4_a06')))])
def test_infer_gives_t5xs_scores(run, tmp_path, source, kind, mode, decoding, name):
  files = golden_models.t5x_files(source)
  golden = np.load(files.golden)
  np.save(tmp_path / 'prompt.npy', golden['prompt'])
  lengths = {'inputs': golden['encoder_input_tokens'].shape[1], 'targets': golden['decoder_target_tokens'].shape[1]}
  rows = write_table(tmp_path / 'rows.jsonl', golden)
  prompt = ['--gin_file=runs/infer.gin', '--gin.PROMPT=None'] if kind == 'plain' else [
    '--gin_file=runs/prompt_infer.gin', f"--gin.PROMPT_FILE='{tmp_path}/prompt.npy'"]
  status, _, errors = run(
    'infer', *model_flags(source), *decoding, *prompt, f"--gin.CHECKPOINT_PATH='{files.checkpoints}/ckpt_orbax'",
    "--gin.utils.RestoreCheckpointConfig.dtype='float32'", f"--gin.MIXTURE_OR_TASK_NAME='{rows}'",
    f"--gin.INFER_OUTPUT_DIR='{tmp_path}/out'", f'--gin.TASK_FEATURE_LENGTHS={lengths}',
    f"--gin.infer_script.infer.mode='{mode}'")
  assert status == 0, errors
  lines = [json.loads(line) for line in (tmp_path / f'out/rows-{mode}.jsonl-00000-of-00001').read_text().splitlines()]
  if mode == 'score':
    np.testing.assert_allclose([line['score'] for line in lines], golden[f'{kind}_score_batch'], atol=2e-4)
  else:
    np.testing.assert_allclose([line['aux']['scores'] for line in lines], golden[f'{kind}_{name}_scores'][:, -1],
                               atol=1e-4)
