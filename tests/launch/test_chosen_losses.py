"""Training with another loss than cross-entropy, and ranked words, from the command line."""

import json

import pytest
from test_programs import FROM_CHECKPOINT, LENGTHS

LOSS = '--gin.models.EncoderDecoderModel.loss_fn=@losses'
WORDS = "--gin.losses.margin.label_words=['20', '21']"


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def common(examples, columns):
  return [*FROM_CHECKPOINT, f"--gin.MIXTURE_OR_TASK_NAME='{examples}'", LENGTHS, '--gin.PROMPT_LENGTH=3', *columns]


@pytest.fixture
def train(common, toy_folder, tmp_path):
  return ['train', '--gin_file=runs/prompt_finetune.gin', *common, f"--gin.INITIAL_CHECKPOINT_PATH='{toy_folder}'",
          f"--gin.MODEL_DIR='{tmp_path}/run'", '--gin.TRAIN_STEPS=2', '--gin.BATCH_SIZE=4', '--gin.EVAL_PERIOD=2',
          '--gin.EVAL_STEPS=1', "--gin.train_script.train.objective='loss'", '--gin.train_script.train.log_period=1']


@pytest.mark.parametrize(('chosen', 'figures'), [
  ([f'{LOSS}.pairwise_cosine()', "--gin.losses.pairwise_cosine.of='hidden'"], {'loss'}),
  ([f'{LOSS}.margin()', WORDS, '--gin.losses.margin.margin=2.0', "--gin.train_prompts.Prompt.wayward_text='4 5 6'",
    '--gin.train_prompts.Prompt.wayward_gamma=0.25'], {'loss', 'token_accuracy', 'penalty'})])
def test_a_run_minimises_the_loss_that_is_chosen_and_reports_its_figures(run, train, tmp_path, chosen, figures):
  status, _, errors = run(*train, *chosen)
  assert status == 0, errors
  found = {line['folder']: line for line in lines(tmp_path / 'run/metrics.jsonl')}
  kinds = {'loss', 'token_accuracy', 'penalty', 'cross_ent_loss', 'z_loss'}
  assert kinds & set(found['train']) == figures
  assert kinds & set(found['training_eval/sums.jsonl']) == figures - {'penalty'}
  assert found['train'].get('penalty', 1) > 0


@pytest.mark.parametrize(('chosen', 'message'), [
  ([f'{LOSS}.pairwise_cosine()', '--gin.trainer.Trainer.num_microbatches=2'], 'split into 2 microbatches. Set '),
  ([f'{LOSS}.pairwise_cosine()', '--gin.train/utils.DatasetConfig.pack=True'], 'but rows hold several examples'),
  ([f'{LOSS}.pairwise_distance()', "--gin.losses.pairwise_distance.of='words'"], "The loss got of='words'"),
  ([f'{LOSS}.margin()', "--gin.losses.margin.label_words=['20', '22']"], 'A target begins with the token 21, but'),
  (["--gin.train_prompts.Prompt.wayward_text='4 5'", '--gin.train_prompts.Prompt.wayward_gamma=1.0'],
   'embedded as (2, 8), expected (3, 8)'),
  (["--gin.train_prompts.Prompt.wayward_text='4 5 6'"], 'need each other. Give a text and a number above 0'),
])
def test_what_the_loss_cannot_do_is_an_error_before_the_first_step(run, train, tmp_path, chosen, message):
  status, _, errors = run(*train, *chosen)
  assert status != 0 and message in errors
  assert not (tmp_path / 'run' / 'metrics.jsonl').exists() or not lines(tmp_path / 'run/metrics.jsonl')
  if '22' not in chosen[-1]:  # a plan does not check all examples
    status, _, errors = run(*train, *chosen, '--dry_run')
    assert status != 0 and message in errors


def test_eval_ranks_the_words_of_the_label_map(run, common, toy_folder, tmp_path):
  import numpy as np

  np.save(tmp_path / 'prompt.npy', np.ones((3, 8), np.float32))
  use = ['eval', '--gin_file=runs/prompt_eval.gin', *common, f"--gin.CHECKPOINT_PATH='{toy_folder}'",
         f"--gin.PROMPT_FILE='{tmp_path}/prompt.npy'", "--gin.utils.DatasetConfig.split='all'",
         f"--gin.EVAL_OUTPUT_DIR='{tmp_path}/judged'", "--gin.eval_script.evaluate.label_words='task'"]
  status, printed, errors = run(*use)
  assert status == 0, errors
  assert 'sums.jsonl, 20 examples: accuracy' in printed
  answers = lines(tmp_path / 'judged/inference_eval/sums.jsonl-000000.jsonl')
  for line in answers:
    assert list(line['scores']) == ['20', '21'] and line['output'] == max(line['scores'], key=line['scores'].get)
  right = 100 * np.mean([line['output'] == line['target'] for line in answers])
  assert lines(tmp_path / 'judged/inference_eval/sums.jsonl-metrics.jsonl')[0]['accuracy'] == pytest.approx(right)

  status, _, errors = run(*use, "--gin.eval_script.evaluate.label_words=['20', '22']")
  assert status != 0 and "The target '21' is not among the words to rank, '20', '22'" in errors
  status, _, errors = run(*use, "--gin.eval_script.evaluate.label_words='20'", '--dry_run')
  assert status != 0 and "label_words is '20', expected a list of words" in errors
  status, _, errors = run(*use, '--gin.files.FileTask.labels=None', '--dry_run')
  assert status != 0 and 'has no label map. Give files.FileTask.labels=, or' in errors
