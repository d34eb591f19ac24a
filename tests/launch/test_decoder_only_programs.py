"""Programs on a decoder-only model: the same commands as for T5."""

import json
import random

import pytest

from prompt_tuning.models import loading
from prompt_tuning.models.decoder_only import DecoderConfig
from prompt_tuning.programs import command

MODEL = ['--gin_file=models/from_checkpoint_prompt.gin', '--gin.VOCABULARY=@seqio.PassThroughVocabulary()',
         '--gin.seqio.PassThroughVocabulary.size=31']
LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 6, 'targets': 4}"


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """A folder with a GPT-2 of toy size and a file of examples."""
  folder = tmp_path_factory.mktemp('decoder_only')
  config = DecoderConfig(vocab_size=31, layers=2, width=8, heads=2, head_dim=4, mlp_dim=12, mlp_activations=('gelu',),
                         norm='layer', norm_epsilon=1e-5, bias=True, query_scale=0.5, position_count=24, tied=True,
                         family='gpt2')
  loading.save_model(loading.random_model(config), str(folder / 'gpt2'))
  numbers = random.Random(0)
  rows = [[numbers.randrange(5, 31) for _ in range(numbers.randrange(2, 6))] for _ in range(30)]
  (folder / 'turn.jsonl').write_text('\n'.join(json.dumps(
    {'inputs': ' '.join(map(str, row)), 'targets': ' '.join(map(str, row[:2]))}) for row in rows))
  return folder


@pytest.mark.parametrize('method', [
  ['--gin.PROMPT_LENGTH=3'],
  pytest.param(['--gin.PROMPT_LENGTH=3', '--gin.train_prompts.Prompt.combine=@train_prompts.suffix_prompt'],
               marks=pytest.mark.slow),
  pytest.param(['--gin.PROMPT=@prefix.Prefix', '--gin.prefix.Prefix.length=3'],
               marks=pytest.mark.slow),
], ids=['prompt', 'suffix', 'prefix'])
def test_a_prompt_or_prefix_is_trained_judged_and_used(files, tmp_path, method, capsys):
  train = ['--gin_file=runs/prompt_finetune.gin', f"--gin.INITIAL_CHECKPOINT_PATH='{files}/gpt2'",
           f"--gin.MIXTURE_OR_TASK_NAME='{files}/turn.jsonl'", LENGTHS, '--gin.TRAIN_STEPS=3', '--gin.BATCH_SIZE=4',
           f"--gin.MODEL_DIR='{tmp_path}/run'", '--gin.RANDOM_SEED=1']
  assert command.run('train', [*MODEL, *train, *method, '--dry_run']) == 0
  slots = 3 if 'suffix' in ''.join(method) else 0
  assert f'Batches: 1 x decoder [4, {9 + slots}]' in capsys.readouterr().out
  assert command.run('train', [*MODEL, *train, *method]) == 0
  use = [*MODEL, '--gin.PROMPT_LENGTH=3', f"--gin.CHECKPOINT_PATH='{files}/gpt2'",
         f"--gin.PROMPT_FILE='{tmp_path}/run'", f"--gin.MIXTURE_OR_TASK_NAME='{files}/turn.jsonl'", LENGTHS]
  assert command.run('eval', [*use, '--gin_file=runs/prompt_eval.gin', "--gin.utils.DatasetConfig.split='validation'",
                              '--gin.utils.RestoreCheckpointConfig.dtype="float32"',
                              f"--gin.EVAL_OUTPUT_DIR='{tmp_path}/eval'"]) == 0
  assert command.run('infer', [*use, '--gin_file=runs/prompt_infer.gin', f"--gin.INFER_OUTPUT_DIR='{tmp_path}/out'",
                               '--gin.utils.RestoreCheckpointConfig.dtype="float32"']) == 0
  answers = {line['inputs']['inputs_pretokenized']: line['prediction'] for line in map(
    json.loads, open(tmp_path / 'out/turn-predict.jsonl-00000-of-00001'))}
  for line in map(json.loads, open(tmp_path / 'eval/inference_eval/turn.jsonl-000003.jsonl')):
    assert answers[line['input']['inputs_pretokenized']] == line['prediction']
  while_training = list(map(json.loads, open(tmp_path / 'run/inference_eval/turn.jsonl-000003.jsonl')))
  assert [answers[line['input']['inputs_pretokenized']] for line in while_training] == [
    line['prediction'] for line in while_training]
