"""The shell demos with ENGINE=t5x train and evaluate, offline, with a small checkpoint and a task of two texts."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
SIZES = {'NUM_HEADS': 2, 'NUM_ENCODER_LAYERS': 2, 'NUM_DECODER_LAYERS': 2, 'HEAD_DIM': 2, 'EMBED_DIM': 4, 'MLP_DIM': 8,
         'relative_position_biases.RelativePositionBiases.num_buckets': 4, 'ACTIVATION_DTYPE': "'float32'",
         'PROMPT_LENGTH': 5, 'MIXTURE_OR_TASK_NAME': "'toy_films'", 'MIXTURE_OR_TASK_MODULE': "'toy_tasks'",
         'TASK_FEATURE_LENGTHS': "{'inputs': 24, 'targets': 3}"}


def demo(name, shared, folder, *flags, **variables):
  """Runs a demo with T5X at toy sizes."""
  vocabulary = str(shared / 't5x_native/sentencepiece.model')
  toy = [f'--gin.{macro}={value}' for macro, value in SIZES.items()]
  environment = os.environ | {
    'ENGINE': 't5x', 'TFDS_DATA_DIR': str(folder), 'CHECKPOINT': str(shared / 't5x_native/checkpoint_3'),
    'TOY_VOCABULARY': vocabulary, 'PATH': f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}',
    'PYTHONPATH': f'{ROOT}:{pathlib.Path(__file__).parent}:{os.environ.get("PYTHONPATH", "")}'} | variables
  done = subprocess.run(
    ['bash', str(ROOT / 'prompt_tuning/scripts' / name), *toy, *flags,
     f"--gin.seqio.SentencePieceVocabulary.sentencepiece_model_file='{vocabulary}'"],
    env=environment, cwd=folder, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]


def test_a_prompt_is_trained_from_the_class_labels_and_judged(shared, tmp_path):
  demo('sst2-demo.sh', shared, tmp_path, '--gin.TRAIN_STEPS=5', '--gin.BATCH_SIZE=2', '--gin.EVAL_PERIOD=1',
       '--gin.utils.SaveCheckpointConfig.period=1', MODEL_DIR=str(tmp_path / 'run'))
  prompt = tmp_path / 'run/numpy_checkpoints/checkpoint_5/encoder.prompt.prompt.prompt'
  assert np.load(prompt).shape == (5, 4)
  demo('sst2-demo-eval.sh', shared, tmp_path, EVAL_DIR=str(tmp_path / 'judged'), PROMPT_FILE=str(tmp_path / 'run'))
  rows = (tmp_path / 'judged/inference_eval/toy_films-000003.jsonl').read_text().splitlines()
  assert [json.loads(row)['input']['inputs_pretokenized'] for row in rows] == [
    'sentence: dull', 'sentence: a gripping film']
