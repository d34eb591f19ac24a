"""The files that train, eval and infer write, with the names and formats that users of T5X know."""

import json
import pathlib

import numpy as np
import pytest

from prompt_tuning.programs import command

LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 9, 'targets': 5}"
IDS = ('--gin.VOCABULARY=@seqio.PassThroughVocabulary()', '--gin.seqio.PassThroughVocabulary.size=40')
FROM_CHECKPOINT = ('--gin_file=models/from_checkpoint_prompt.gin', *IDS)


@pytest.fixture(scope='module')
def folder(toy_t5x, cache, tmp_path_factory):
  """Runs the three programs on one table; their folders are `train`, `eval` and `infer`."""
  folder = tmp_path_factory.mktemp('programs')
  (folder / 'sums.tsv').write_text('inputs\ttargets\n' + ''.join(f'{7 + i} 11\t{20 + i % 2}\n' for i in range(20)))
  common = [*FROM_CHECKPOINT, f"--gin.MIXTURE_OR_TASK_NAME='{folder}/sums.tsv'", LENGTHS, '--gin.PROMPT_LENGTH=3']
  use = [f"--gin.CHECKPOINT_PATH='{toy_t5x}'", f"--gin.PROMPT_FILE='{folder}/train'"]
  programs = {
    'train': ['--gin_file=runs/prompt_finetune.gin', f"--gin.INITIAL_CHECKPOINT_PATH='{toy_t5x}'",
              f"--gin.MODEL_DIR='{folder}/train'", '--gin.TRAIN_STEPS=74', '--gin.BATCH_SIZE=2', '--gin.EVAL_PERIOD=2',
              '--gin.utils.SaveCheckpointConfig.keep=None', '--gin.utils.SaveCheckpointConfig.period=2'],
    'eval': ['--gin_file=runs/prompt_eval.gin', *use, "--gin.utils.DatasetConfig.split='all'",
             f"--gin.EVAL_OUTPUT_DIR='{folder}/eval'"],
    'infer': ['--gin_file=runs/prompt_infer.gin', *use, f"--gin.INFER_OUTPUT_DIR='{folder}/infer'"]}
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(cache))
    for program, arguments in programs.items():
      assert command.run(program, [*common, *arguments]) == 0
  return folder


def files_in(folder: pathlib.Path) -> dict[str, bytes]:
  """Returns the content of a folder's files; those for TensorBoard are called `events`."""
  files = [path for path in folder.rglob('*') if path.is_file()]
  names = [path.with_name('events') if path.name.startswith('events') else path for path in files]
  return {str(name.relative_to(folder)): path.read_bytes() for name, path in zip(names, files, strict=True)}


def lines_of(content: bytes):
  return [json.loads(line) for line in content.splitlines()]


def assert_answers(lines):
  assert lines and all(set(line) == {'input', 'target', 'output', 'prediction'} for line in lines)
  assert all('inputs_pretokenized' in line['input'] for line in lines)


def test_train_writes_the_files_of_t5x_and_its_own(folder):
  files = files_in(folder / 'train')
  steps = (72, 74)
  ours = {'best.safetensors', 'last.safetensors', 'metrics.jsonl', *(
    f'checkpoint_{step}/state.safetensors' for step in steps)}
  assert set(files) - ours == {
    'config.gin', 'run.toml', 'README.md', 'model-info.txt', 'train/events', 'training_eval/sums.tsv/events',
    'inference_eval/sums.tsv/events',
    'inference_eval/sums.tsv-metrics.jsonl', *(f'inference_eval/sums.tsv-{step:06}.jsonl' for step in steps),
    *(f'numpy_checkpoints/checkpoint_{step}/encoder.prompt.prompt.prompt' for step in steps)}
  assert ours <= set(files)
  saved = folder / 'train/numpy_checkpoints/checkpoint_74/encoder.prompt.prompt.prompt'
  prompt = np.load(saved)
  assert (prompt.shape, prompt.dtype) == ((3, 8), np.float32)
  for tag in (b'loss', b'cross_ent_loss', b'z_loss', b'token_accuracy', b'learning_rate'):
    assert tag in files['train/events']
    assert tag in files['training_eval/sums.tsv/events'] or tag == b'learning_rate'
  assert b'eval/accuracy' in files['inference_eval/sums.tsv/events']
  metrics = lines_of(files['inference_eval/sums.tsv-metrics.jsonl'])
  assert [set(line) for line in metrics] == [{'step', 'accuracy'}] * 2
  assert [line['step'] for line in metrics] == [*steps]
  assert_answers(lines_of(files['inference_eval/sums.tsv-000074.jsonl']))


def test_eval_writes_the_files_of_t5x(folder):
  files = files_in(folder / 'eval')
  step = lines_of(files['inference_eval/sums.tsv-metrics.jsonl'])[0]['step']
  assert step in (72, 74)  # the best step
  assert set(files) == {'config.gin', 'run.toml', 'model-info.txt', 'inference_eval/sums.tsv/events',
                        'inference_eval/sums.tsv-metrics.jsonl', f'inference_eval/sums.tsv-{step:06}.jsonl'}
  assert_answers(lines_of(files[f'inference_eval/sums.tsv-{step:06}.jsonl']))
  assert b'eval/accuracy' in files['inference_eval/sums.tsv/events']


def test_infer_writes_the_files_of_t5x_and_its_configuration(folder):
  files = files_in(folder / 'infer')
  answers = 'sums-predict.jsonl-00000-of-00001'
  assert set(files) == {answers, f'{answers}.COMPLETED', 'config.gin', 'run.toml'}
  for line in lines_of(files[answers]):
    assert set(line) == {'inputs', 'prediction'} and 'inputs_pretokenized' in line['inputs']


@pytest.mark.parametrize('program', ['train', 'eval', 'infer'])
def test_the_written_configuration_is_whole_and_can_be_read_again(folder, program, build):
  text = (folder / program / 'config.gin').read_text()
  assert 'PROMPT_LENGTH = 3' in text
  assert build(program, f'--gin_file={folder / program}/config.gin').max_input_length == 9


def test_model_info_is_alike_for_train_and_eval(folder):
  train, judged = ((folder / program / 'model-info.txt').read_text().splitlines() for program in ('train', 'eval'))
  assert train[:-1] == judged[:-1]
  assert train[0] == 'Variable encoder/prompt/prompt/prompt size 24 shape (3, 8) float32 trained'
  assert 'Total number of parameters: ' in '\n'.join(train)
  assert train[-1] == 'Step: 70'
