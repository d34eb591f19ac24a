"""Training, evaluation and inference from the command line, with toy models."""

import json
import shutil

import numpy as np
import pytest

from prompt_tuning.runs import objects, use
from prompt_tuning.runs.choice import Choice
from prompt_tuning.runs.eval_run import EvalRun

LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 9, 'targets': 5}"
IDS = ('--gin.VOCABULARY=@seqio.PassThroughVocabulary()', '--gin.seqio.PassThroughVocabulary.size=40')
FROM_CHECKPOINT = ('--gin_file=models/from_checkpoint_prompt.gin', *IDS)


def test_a_run_trains_is_judged_and_answers_from_a_file_of_ones_own(run, toy_folder, examples, columns, tmp_path):
  common = [*FROM_CHECKPOINT, f"--gin.MIXTURE_OR_TASK_NAME='{examples}'", LENGTHS, '--gin.PROMPT_LENGTH=3', *columns]
  folder = tmp_path / 'run'
  train = ['train', '--gin_file=runs/prompt_finetune.gin', *common, f"--gin.INITIAL_CHECKPOINT_PATH='{toy_folder}'",
           f"--gin.MODEL_DIR='{folder}'", '--gin.TRAIN_STEPS=4', '--gin.BATCH_SIZE=2', '--gin.EVAL_PERIOD=2']
  status, printed, errors = run(*train, '--dry_run')
  assert status == 0, errors
  assert 'encoder/prompt/prompt/prompt (3, 8)' in printed
  assert 'encoder [2, 12], decoder [2, 5]' in printed
  assert 'Steps: 0 to 4' in printed
  for setting, said in (('pack=True', "the decoder's longer if"), ('buckets=(4, 6)', 'or shorter: inputs')):
    assert f'decoder [2, 5], {said}' in run(*train, f'--gin.train/utils.DatasetConfig.{setting}', '--dry_run')[1]
  assert not folder.exists()

  status, printed, errors = run(*train)
  assert status == 0, errors
  saved = np.load(folder / 'numpy_checkpoints/checkpoint_4/encoder.prompt.prompt.prompt')
  assert saved.shape == (3, 8)
  assert 'PROMPT_LENGTH = 3' in (folder / 'config.gin').read_text()
  assert 'holds a run that was saved at step 4' in run(*train, '--dry_run')[1]

  use = [*common, f"--gin.CHECKPOINT_PATH='{toy_folder}'", f"--gin.PROMPT_FILE='{folder}'"]
  status, printed, errors = run('eval', '--gin_file=runs/prompt_eval.gin', *use,
                                "--gin.utils.DatasetConfig.split='all'", f"--gin.EVAL_OUTPUT_DIR='{tmp_path}/judged'")
  assert status == 0, errors
  assert 'sums.jsonl, 20 examples: accuracy' in printed
  figures = json.loads((tmp_path / 'judged/inference_eval/sums.jsonl-metrics.jsonl').read_text())
  lines = [json.loads(line) for line in
           (tmp_path / f'judged/inference_eval/sums.jsonl-{figures["step"]:06}.jsonl').read_text().splitlines()]
  right = sum(line['prediction'].split() == line['target'].split() for line in lines)
  assert figures['accuracy'] == pytest.approx(100 * right / 20)
  assert lines[1]['input']['inputs_pretokenized'] == '3 8 12'

  infer = ['infer', '--gin_file=runs/prompt_infer.gin', *use, f"--gin.INFER_OUTPUT_DIR='{tmp_path}/answers'",
           "--gin.utils.RestoreCheckpointConfig.dtype='float32'"]
  status, printed, errors = run(*infer)
  assert status == 0, errors
  answers = (tmp_path / 'answers/sums-predict.jsonl-00000-of-00001').read_text().splitlines()
  assert [json.loads(line)['prediction'] for line in answers] == [line['prediction'] for line in lines]


def test_a_text_file_is_answered_line_by_line(run, toy_folder, tmp_path):
  np.save(tmp_path / 'prompt.npy', np.ones((2, 8), np.float32))
  (tmp_path / 'questions.txt').write_text('3 4\n5 6 7\n')
  status, _, errors = run(
    'infer', *FROM_CHECKPOINT, '--gin_file=runs/prompt_infer.gin', f"--gin.CHECKPOINT_PATH='{toy_folder}'",
    f"--gin.PROMPT_FILE='{tmp_path}/prompt.npy'", '--gin.PROMPT_LENGTH=None', LENGTHS,
    f"--gin.MIXTURE_OR_TASK_NAME='{tmp_path}/questions.txt'", f"--gin.INFER_OUTPUT_DIR='{tmp_path}/out'",
    "--gin.infer_script.infer.mode='predict_with_aux'")
  assert status == 0, errors
  lines = [json.loads(line) for line in (tmp_path / 'out/questions-predict_with_aux.jsonl-00000-of-00001'
                                         ).read_text().splitlines()]
  assert [line['inputs']['inputs_pretokenized'] for line in lines] == ['3 4', '5 6 7']
  assert all('scores' in line['aux'] for line in lines)


def test_a_prompt_inside_the_checkpoint_is_used_where_nothing_is_left_out(build, toy_model, tmp_path):
  from prompt_tuning.checkpoints.loading import save
  from prompt_tuning.checkpoints.t5x import write_t5x

  prompt = np.arange(16, dtype=np.float32).reshape(2, 8)
  path = write_t5x(str(tmp_path), 9, {**save(toy_model.params), 'encoder/prompt/prompt/prompt': prompt})
  files = [*FROM_CHECKPOINT, '--gin_file=t5x/configs/runs/eval.gin', f"--gin.CHECKPOINT_PATH='{path}'",
           "--gin.MIXTURE_OR_TASK_NAME='Add1'", "--gin.EVAL_OUTPUT_DIR='out'", '--gin.PROMPT_LENGTH=2',
           '--gin.utils.RestoreCheckpointConfig.fallback_to_scratch=False']
  described = build('eval', *files, '--gin.utils.RestoreCheckpointConfig.assignment_map=()')
  model = objects.load_model(described)
  np.testing.assert_array_equal(use.trained(described, model).prompt().vectors, prompt)
  without = build('eval', *files)
  with pytest.raises(ValueError, match='holds no encoder/prompt/prompt/prompt, and first_values_seed=None forbids'):
    use.trained(without, model)


def test_a_prompt_of_another_length_is_an_error_that_says_which_to_set(run, toy_folder, tmp_path):
  np.save(tmp_path / 'prompt.npy', np.ones((7, 8), np.float32))
  status, _, errors = run(
    'eval', *FROM_CHECKPOINT, '--gin_file=runs/prompt_eval.gin', f"--gin.CHECKPOINT_PATH='{toy_folder}'",
    f"--gin.PROMPT_FILE='{tmp_path}/prompt.npy'", "--gin.MIXTURE_OR_TASK_NAME='Add1'", "--gin.EVAL_OUTPUT_DIR='out'",
    "--gin.utils.DatasetConfig.split='validation'")
  assert status == 2
  assert f'{tmp_path}/prompt.npy holds a prompt of 7 vectors, but' in errors
  assert 'the run asks for PROMPT_LENGTH=100. Set PROMPT_LENGTH=7' in errors


def test_a_shape_that_the_folder_does_not_have_is_an_error_that_names_both(run, toy_folder, toy_shape, tmp_path):
  arguments = ['train', '--gin_file=models/t5_1_1_prompt.gin', '--gin_file=runs/prompt_finetune.gin', *toy_shape,
               '--gin.MLP_DIM=16', f"--gin.INITIAL_CHECKPOINT_PATH='{toy_folder}'", "--gin.MIXTURE_OR_TASK_NAME='Add1'",
               LENGTHS, '--gin.TRAIN_STEPS=3', f"--gin.MODEL_DIR='{tmp_path}/run'"]
  for more in ([], ['--dry_run']):
    status, _, errors = run(*arguments, *more)
    assert status == 2
    assert 'another model than the run asks for (mlp_dim: 12' in errors
    assert '16 asked for' in errors
    assert not (tmp_path / 'run').exists()


def test_the_plan_of_the_largest_model_says_what_is_missing(run, tmp_path):
  status, printed, errors = run(
    'train', '--gin_file=models/t5_1_1_xxl_prompt.gin', '--gin_file=prompts/from_sampled_vocab.gin',
    '--gin_file=runs/prompt_finetune.gin', *IDS, f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path}/xxl'",
    "--gin.MIXTURE_OR_TASK_NAME='nothing.jsonl'", "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 8}",
    '--gin.TRAIN_STEPS=1_150_000', f"--gin.MODEL_DIR='{tmp_path}/run'", '--gin.trainer.Trainer.num_microbatches=4',
    '--dry_run')
  assert status == 2
  assert '11,135,332,352 frozen parameters, 44.5 GB as float32' in printed  # the published count
  assert 'PromptTuning: 409,600 parameters' in printed
  assert '4 x encoder [32, 612], decoder [32, 8]' in printed
  assert f'{tmp_path}/run/config.gin' not in printed
  assert f'- {tmp_path}/xxl: there is no such folder' in errors
  assert '- nothing.jsonl: there is no such file' in errors


def test_every_parameter_of_a_new_model_can_be_trained(run, toy_shape, tmp_path):
  status, printed, errors = run(
    'train', '--gin_file=models/t5_1_1_prompt.gin', '--gin_file=runs/pretrain.gin', *toy_shape, LENGTHS,
    "--gin.MIXTURE_OR_TASK_NAME='Add1'", '--gin.TRAIN_STEPS=2', f"--gin.MODEL_DIR='{tmp_path}/run'", '--dry_run')
  assert status == 0, errors
  count = 40 * 8 * 2 + 2 * 2 * 32 + 2 * 8 + 3 * (4 * 80 + 3 * 96 + 2 * 8) + 2 * (8 * 80 + 3 * 96 + 3 * 8)
  assert f'Trained by Retrained: {count:,} parameters' in printed


def test_a_vocabulary_that_is_larger_than_the_embedding_is_an_error(build, toy_folder):
  described = build(
    'eval', FROM_CHECKPOINT[0], IDS[0], '--gin.seqio.PassThroughVocabulary.size=41', '--gin_file=runs/eval.gin',
    f"--gin.CHECKPOINT_PATH='{toy_folder}'", "--gin.MIXTURE_OR_TASK_NAME='Add1'", "--gin.EVAL_OUTPUT_DIR='out'")
  with pytest.raises(ValueError, match='has 41 tokens, but the embedding of the model has 40 rows'):
    objects.load_model(described)


def test_a_folder_without_a_vocabulary_says_where_to_put_one(build, toy_folder):
  described = build(
    'eval', FROM_CHECKPOINT[0], '--gin_file=runs/eval.gin', f"--gin.CHECKPOINT_PATH='{toy_folder}'",
    "--gin.MIXTURE_OR_TASK_NAME='Add1'", "--gin.EVAL_OUTPUT_DIR='out'")
  with pytest.raises(FileNotFoundError, match=r'holds no vocabulary .* or give vocabulary=FILE'):
    objects.load_model(described)


def test_a_vocabulary_is_bytes_or_a_file_of_a_folder_that_states_its_sentinels(shared, tmp_path):
  shutil.copy(shared / 't5x_native/sentencepiece.model', tmp_path / 'spiece.model')
  (tmp_path / 'tokenizer_config.json').write_text('{"extra_ids": 5}')
  size = lambda name, **options: objects.vocabulary(
    EvalRun(model=str(tmp_path), data='Add1', prompt='p.npy', vocabulary=Choice(name, options))).size
  assert (size('bytes'), size('bytes', extra_ids=125)) == (259, 384)
  assert (size(f'{tmp_path}/spiece.model'), size(f'{tmp_path}/spiece.model', extra_ids=7)) == (32005, 32007)
  assert size('sentencepiece', default='gone.model') == 32005
  for name, options, message in (
      ('pass_through', {}, 'vocabulary=pass_through has no size'),
      ('pass_through', {'size': 'many'}, "size='many' cannot be used"),
      ('bytes', {'size': 9}, "vocabulary=bytes has no option 'size'"),
      (f'{tmp_path}/spiece.model', {'extra_ids': -1}, 'extra_ids=-1 cannot be used'),
      (f'{tmp_path}/spiece.model', {'extra': 1}, "no option 'extra'. Did you mean extra_ids")):
    with pytest.raises(ValueError, match=message):
      size(name, **options)


def test_token_ids_that_end_otherwise_than_the_model_are_reported(tmp_path, caplog):
  (tmp_path / 'config.json').write_text('{"eos_token_id": [7, 5]}')
  read = lambda **options: objects.vocabulary(EvalRun(
    model=str(tmp_path), data='Add1', prompt='p.npy', vocabulary=Choice('pass_through', {'size': 9, **options})))
  assert (read(eos_id=5).eos_id, caplog.text) == (5, '')
  assert read().eos_id == 1
  assert 'with 7 or 5. To use that, give vocabulary.eos_id=7' in caplog.text


def test_a_model_is_judged_by_itself_where_there_is_no_prompt(build, toy_folder):
  described = build(
    'eval', *FROM_CHECKPOINT, '--gin_file=runs/eval.gin', f"--gin.CHECKPOINT_PATH='{toy_folder}'", '--gin.PROMPT=None',
    "--gin.MIXTURE_OR_TASK_NAME='Add1'", "--gin.EVAL_OUTPUT_DIR='out'")
  assert use.trained(described, None).tensors == {}


def writing_into(program, macro, folder):
  """Returns a program and its arguments, with results in a folder; its model does not exist."""
  checkpoint = 'INITIAL_CHECKPOINT_PATH' if program == 'train' else 'CHECKPOINT_PATH'
  run_file = {'train': 'prompt_finetune', 'eval': 'prompt_eval', 'infer': 'prompt_infer'}[program]
  return [program, *FROM_CHECKPOINT, f'--gin_file=runs/{run_file}.gin', f"--gin.{checkpoint}='there'", LENGTHS,
          "--gin.MIXTURE_OR_TASK_NAME='Add1'", f"--gin.{macro}='{folder}'",
          *(['--gin.TRAIN_STEPS=2'] if program == 'train' else ["--gin.PROMPT_FILE='prompt'"])]


@pytest.mark.parametrize('program, macro', [('train', 'MODEL_DIR'), ('eval', 'EVAL_OUTPUT_DIR'),
                                            ('infer', 'INFER_OUTPUT_DIR')])
def test_a_folder_that_cannot_be_written_is_an_error_before_the_work(program, macro, run, tmp_path):
  (tmp_path / 'file').write_text('')
  folder = tmp_path / 'file/run'
  status, _, errors = run(*writing_into(program, macro, folder))
  assert status == 2
  assert f'{macro}={folder} cannot be written' in errors


def test_the_folder_of_a_run_is_no_frozen_model(build, tmp_path):
  (tmp_path / 'last.safetensors').write_bytes(b'')
  described = build(
    'eval', *FROM_CHECKPOINT, '--gin_file=runs/prompt_eval.gin', f"--gin.CHECKPOINT_PATH='{tmp_path}'",
    f"--gin.PROMPT_FILE='{tmp_path}'", "--gin.MIXTURE_OR_TASK_NAME='Add1'", "--gin.EVAL_OUTPUT_DIR='out'")
  with pytest.raises(ValueError, match=r'is the folder of a run, .* as model=FOLDER. This folder can be the prompt'):
    objects.load_model(described)
