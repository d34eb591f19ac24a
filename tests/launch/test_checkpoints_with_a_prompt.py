"""Whole-model checkpoints that hold a prompt, as older runs on T5X wrote them, in our programs."""

import json

import numpy as np
import pytest

from prompt_tuning.prompts import PATH

SHAPE = {'NUM_HEADS': 4, 'NUM_ENCODER_LAYERS': 2, 'NUM_DECODER_LAYERS': 2, 'HEAD_DIM': 8, 'EMBED_DIM': 32,
         'MLP_DIM': 64, 'NUM_EMBEDDINGS': 128, 'ACTIVATION_DTYPE': "'float32'", 'PROMPT_LENGTH': 5,
         'architectures.T5.relative_buckets': 8, 'architectures.T5.relative_max_distance': 16,
         'VOCABULARY': '@seqio.PassThroughVocabulary()', 'seqio.PassThroughVocabulary.size': 128}
MODEL = ['--gin_file=models/t5_1_1_prompt.gin', *(f'--gin.{name}={value}' for name, value in SHAPE.items())]
OWN_PROMPT = ['--gin.utils.RestoreCheckpointConfig.assignment_map=()',
              '--gin.utils.RestoreCheckpointConfig.fallback_to_scratch=False']


def text_of(row):
  return ' '.join(str(token) for token in row if token > 1)


@pytest.fixture
def judge(run, shared, tmp_path):
  """Returns a function `(checkpoint, answers, *flags) -> accuracy, lines`: runs `eval` on the inputs of d_small."""

  def evaluate(checkpoint, answers, *flags):
    inputs = np.load(shared / 't5x/d_small/golden.npz')['encoder_input_tokens']
    table = tmp_path / 'rows.jsonl'
    table.write_text('\n'.join(json.dumps({'inputs': text_of(row), 'targets': answer})
                               for row, answer in zip(inputs, answers, strict=True)))
    folder = tmp_path / f'judged_{len(list(tmp_path.iterdir()))}'
    status, _, errors = run(
      'eval', *MODEL, *flags, f"--gin.CHECKPOINT_PATH='{checkpoint}'", f"--gin.MIXTURE_OR_TASK_NAME='{table}'",
      f"--gin.EVAL_OUTPUT_DIR='{folder}'", "--gin.utils.DatasetConfig.split='all'",
      "--gin.TASK_FEATURE_LENGTHS={'inputs': 10, 'targets': 12}")
    assert status == 0, errors
    figures = json.loads((folder / 'inference_eval/rows.jsonl-metrics.jsonl').read_text())
    lines = (folder / f'inference_eval/rows.jsonl-{figures["step"]:06}.jsonl').read_text().splitlines()
    return figures['accuracy'], [json.loads(line)['prediction'] for line in lines]

  return evaluate


def t5xs_answers(shared, name):
  return [text_of(row[-1]) for row in np.load(shared / 't5x/d_small/golden.npz')[f'{name}_tokens']]


@pytest.mark.parametrize('layout', ['native', 'orbax'])
def test_a_prompt_in_the_checkpoint_answers_as_from_a_file(judge, shared, tmp_path, layout):
  golden = shared / 't5x/d_small'
  np.save(tmp_path / 'prompt.npy', np.load(golden / 'train_20.npz')['start0_prompts'][-1])
  nothing = [''] * 4
  _, by_file = judge(golden / f'ckpt_{layout}', nothing, '--gin_file=runs/prompt_eval.gin',
                     f"--gin.PROMPT_FILE='{tmp_path}/prompt.npy'")
  inside = judge(golden / f'ckpt_{layout}_prompt', by_file, '--gin_file=runs/eval.gin', *OWN_PROMPT)
  assert inside == (100.0, by_file)
  assert by_file not in (t5xs_answers(shared, 'plain_beam1_a06'), t5xs_answers(shared, 'prompt_beam1_a06'))


@pytest.mark.parametrize('layout', ['native', 'orbax'])
def test_the_prompt_is_extracted_to_the_bit(shared, tmp_path, layout):
  from prompt_tuning.scripts import extract_variable

  golden = shared / 't5x/d_small'
  assert extract_variable.main([f'--checkpoint_dir={golden}/ckpt_{layout}_prompt', f'--variable_path=target/{PATH}',
                                f'--output_path={tmp_path}/prompt']) == 0
  np.testing.assert_array_equal(np.load(tmp_path / 'prompt'), np.load(golden / 'train_20.npz')['start0_prompts'][-1],
                                strict=True)


@pytest.mark.parametrize(('decoding', 'name'), [
  ([], 'beam1_a06'), (['--gin_file=models/decoding/beam_search.gin'], 'beam4_a06'),
  (['--gin_file=models/decoding/greedy.gin'], 'greedy_temp0')])
def test_recreated_checkpoints_answer_as_t5x_and_as_prompt_and_frozen_model(judge, shared, tmp_path, decoding, name):
  from prompt_tuning.scripts import recreate_checkpoint

  golden = shared / 't5x/d_small'
  prompt, frozen = golden / 'prompt_5x32.npy', golden / 'ckpt_native'
  assert recreate_checkpoint.main([f'--prompt={prompt}', f'--model={frozen}', f'--output_dir={tmp_path}/whole']) == 0
  answers = t5xs_answers(shared, f'prompt_{name}')
  whole = judge(tmp_path / 'whole', answers, *decoding, '--gin_file=runs/eval.gin', *OWN_PROMPT)
  parts = judge(frozen, answers, *decoding, '--gin_file=runs/prompt_eval.gin', f"--gin.PROMPT_FILE='{prompt}'")
  assert whole == parts == (100.0, answers)


@pytest.mark.parametrize('layout', ['native', 'orbax'])
def test_a_model_without_a_prompt_answers_as_t5x(judge, shared, layout):
  wanted = t5xs_answers(shared, 'plain_beam1_a06')
  assert judge(shared / f't5x/d_small/ckpt_{layout}', wanted, '--gin_file=runs/eval.gin',
               '--gin.PROMPT=None') == (100.0, wanted)


def test_a_bfloat16_checkpoint_answers_as_the_float32_one_that_is_rounded_when_read(judge, shared):
  flags = ['--gin_file=runs/eval.gin', '--gin.PROMPT=None']
  _, rounded = judge(shared / 't5x/d_small/ckpt_native', [''] * 4, *flags,
                     "--gin.utils.RestoreCheckpointConfig.dtype='bfloat16'")
  _, stored = judge(shared / 't5x/d_small/ckpt_native_bf16', [''] * 4, *flags)
  assert stored == rounded
