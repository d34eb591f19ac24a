"""What train and infer give from T5X's own checkpoints, against what T5X gave."""

import json

import numpy as np
import pytest

SHAPES = {
  'tiny': {'NUM_HEADS': 2, 'NUM_ENCODER_LAYERS': 2, 'NUM_DECODER_LAYERS': 2, 'HEAD_DIM': 2, 'EMBED_DIM': 4,
           'MLP_DIM': 8, 'architectures.T5.relative_buckets': 4, 'architectures.T5.relative_max_distance': 8,
           'seqio.PassThroughVocabulary.size': 32128},
  'small': {'NUM_HEADS': 4, 'NUM_ENCODER_LAYERS': 2, 'NUM_DECODER_LAYERS': 2, 'HEAD_DIM': 8, 'EMBED_DIM': 32,
            'MLP_DIM': 64, 'NUM_EMBEDDINGS': 128, 'architectures.T5.relative_buckets': 8,
            'architectures.T5.relative_max_distance': 16, 'seqio.PassThroughVocabulary.size': 128},
}


def model_flags(name):
  common = {'ACTIVATION_DTYPE': "'float32'", 'PROMPT_LENGTH': 5, 'VOCABULARY': '@seqio.PassThroughVocabulary()'}
  return ['--gin_file=models/t5_1_1_prompt.gin', *(
    f'--gin.{macro}={value}' for macro, value in (SHAPES[name] | common).items())]


def write_table(path, golden):
  """Writes the golden batch as texts of ids, without the end tokens, which the program adds."""
  text_of = lambda row: ' '.join(str(token) for token in row if token > 1)
  path.write_text('\n'.join(json.dumps({'inputs': text_of(inputs), 'targets': text_of(targets)}) for inputs, targets in
                            zip(golden['encoder_input_tokens'], golden['decoder_target_tokens'], strict=True)))
  return path


def test_train_takes_t5xs_first_steps_from_t5xs_checkpoint(run, shared, tmp_path):
  golden = np.load(shared / 't5x/c_train_tiny/golden.npz')
  rows = write_table(tmp_path / 'rows.jsonl', golden)
  status, _, errors = run(
    'train', *model_flags('tiny'), '--gin_file=prompts/from_file.gin', '--gin_file=runs/prompt_finetune.gin',
    f"--gin.PROMPT_FILE='{shared}/t5x/b_prompt_tiny/prompt_5x4.npy'", f"--gin.MIXTURE_OR_TASK_NAME='{rows}'",
    f"--gin.INITIAL_CHECKPOINT_PATH='{shared}/t5x_native/checkpoint_3'", f"--gin.MODEL_DIR='{tmp_path}/run'",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 9, 'targets': 5}", '--gin.BATCH_SIZE=3', '--gin.DROPOUT_RATE=0.0',
    '--gin.TRAIN_STEPS=8', "--gin.train/utils.DatasetConfig.split='all'", '--gin.utils.SaveCheckpointConfig.period=1',
    '--gin.utils.SaveCheckpointConfig.keep=None', '--gin.train_script.train.log_period=1',
    '--gin.train_script.train.train_eval_dataset_cfg=None', '--gin.train_script.train.infer_eval_dataset_cfg=None')
  assert status == 0, errors
  for step in range(4, 9):
    found = np.load(tmp_path / f'run/numpy_checkpoints/checkpoint_{step}/encoder.prompt.prompt.prompt')
    wanted = golden['start3_prompts'][step - 3]
    assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)
  figures = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
  tokens = golden['decoder_loss_weights'].sum()
  np.testing.assert_allclose([line['loss'] * tokens for line in figures], golden['start3_loss'][:5], rtol=1e-4)
  np.testing.assert_allclose([line['z_loss'] * tokens for line in figures], golden['start3_z_loss'][:5], rtol=1e-4)
  assert all(line['learning_rate'] == pytest.approx(0.3) for line in figures)


@pytest.mark.parametrize(('mode', 'decoding', 'name'), [
  ('score', [], 'score_batch'), ('predict_with_aux', [], 'beam1_a06'),
  ('predict_with_aux', ['--gin_file=models/decoding/beam_search.gin'], 'beam4_a06')])
@pytest.mark.parametrize('kind', ['plain', 'prompt'])
def test_infer_gives_t5xs_scores(run, shared, tmp_path, kind, mode, decoding, name):
  golden = np.load(shared / 't5x/d_small/golden.npz')
  rows = write_table(tmp_path / 'rows.jsonl', golden)
  prompt = ['--gin_file=runs/infer.gin', '--gin.PROMPT=None'] if kind == 'plain' else [
    '--gin_file=runs/prompt_infer.gin', f"--gin.PROMPT_FILE='{shared}/t5x/d_small/prompt_5x32.npy'"]
  status, _, errors = run(
    'infer', *model_flags('small'), *decoding, *prompt, f"--gin.CHECKPOINT_PATH='{shared}/t5x/d_small/ckpt_orbax'",
    "--gin.utils.RestoreCheckpointConfig.dtype='float32'", f"--gin.MIXTURE_OR_TASK_NAME='{rows}'",
    f"--gin.INFER_OUTPUT_DIR='{tmp_path}/out'", "--gin.TASK_FEATURE_LENGTHS={'inputs': 10, 'targets': 12}",
    f"--gin.infer_script.infer.mode='{mode}'")
  assert status == 0, errors
  lines = [json.loads(line) for line in (tmp_path / f'out/rows-{mode}.jsonl-00000-of-00001').read_text().splitlines()]
  if mode == 'score':
    np.testing.assert_allclose([line['score'] for line in lines], golden[f'{kind}_score_batch'], atol=2e-4)
  else:
    np.testing.assert_allclose([line['aux']['scores'] for line in lines], golden[f'{kind}_{name}_scores'][:, -1],
                               atol=1e-4)
