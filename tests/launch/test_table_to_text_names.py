"""Table-to-text from the command line: the names of `table_to_text`, and predictions as lines of text."""

import json

import numpy as np
import pytest
from test_programs import FROM_CHECKPOINT, LENGTHS

from prompt_tuning.runs import objects, training

TASK = '--gin.MIXTURE_OR_TASK_NAME=@table_to_text.Task()'
MIXTURE = '--gin.MIXTURE_OR_TASK_NAME=@table_to_text.PretrainingMixture()'


@pytest.fixture
def data(tmp_path):
  """Files of each format, with token ids as words."""
  (tmp_path / 'train.txt').write_text(''.join(f'{3 + i} 4||{5 + i} 6\n' for i in range(30)))
  (tmp_path / 'dev.out').write_text('7||3 4||5 6\n7||3 4||6 5\n9||8 4||9 6\n')
  (tmp_path / 'test.txt').write_text('3 4\n8 9\n5 4\n')
  names = {'train': 'train.txt', 'validation': 'dev.out', 'test': 'test.txt'}
  return [TASK, *(f"--gin.table_to_text.Task.{name}='{tmp_path / file}'" for name, file in names.items())]


def test_a_run_learns_pairs_and_is_judged_by_all_references(described, data):
  run = described('train', *data, "--gin.table_to_text.Task.instruction='11 '",
                  "--gin.table_to_text.Task.separator=' 12'", "--gin.table_to_text.Task.name='tables'")
  task = objects.task(run)
  assert (task.name, len(task.split('train'))) == ('tables', 30)
  assert task.split('train')[0] == {'inputs': '11 3 4 12', 'targets': '5 6'}
  assert task.split('validation')[0]['references'] == ['5 6', '6 5']
  assert training.evaluations(run, task).task is None, 'it is judged by the task that it learns'


def test_a_run_pretrains_on_the_mixture(described, data, tmp_path):
  owner = '--gin.table_to_text.PretrainingMixture'
  run = described('train', MIXTURE, f"{owner}.train='{tmp_path}/train.txt'", f"{owner}.separator=' 12 '",
                  f'{owner}.validation=0.25', f"{owner}.name='documents'")
  mixture = objects.task(run)
  assert mixture.name == 'documents'
  for task in mixture.tasks:
    sizes = [len(task.split(split)) for split in ('train', 'validation')]
    assert sum(sizes) == 30 and min(sizes) > 0
  document = mixture.tasks[0].split('train')[0]
  assert ' 12 ' in document['inputs'] + document['targets']


def test_a_run_learns_labels(described, tmp_path):
  for name, line in (('train.txt', 'kind : {}||5 {}'), ('dev.out', '{}||kind : {}||6 7')):
    (tmp_path / name).write_text(''.join(line.format(i, i % 2 + 3) + '\n' for i in range(8)))
  owner = '--gin.table_to_text.Labels'
  run = described('train', '--gin.MIXTURE_OR_TASK_NAME=@table_to_text.Labels()', f'{owner}.limit=2',
                  f'{owner}.validation_limit=3', f"{owner}.train='{tmp_path}/train.txt'",
                  f"{owner}.validation='{tmp_path}/dev.out'", f"{owner}.attribute='kind'", f"{owner}.mentions='[37]'")
  task = objects.task(run)
  assert [len(task.split(split)) for split in ('train', 'validation')] == [2, 3]
  assert task.split('train')[0]['inputs'] == '5 3'


def test_an_absent_file_is_a_message(described, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'gone\.txt: there is no such file'):
    objects.task(described('train', TASK, f"--gin.table_to_text.Task.train='{tmp_path}/gone.txt'"))


def test_references_judge_and_answers_are_lines_of_id_and_text(run, toy_folder, data, tmp_path):
  np.save(tmp_path / 'prompt.npy', np.ones((2, 8), np.float32))
  common = [*FROM_CHECKPOINT, *data, f"--gin.CHECKPOINT_PATH='{toy_folder}'", "--gin.table_to_text.Task.separator=''",
            f"--gin.PROMPT_FILE='{tmp_path}/prompt.npy'", '--gin.PROMPT_LENGTH=2', LENGTHS,
            "--gin.utils.RestoreCheckpointConfig.dtype='float32'"]
  status, printed, errors = run('eval', *common, '--gin_file=runs/prompt_eval.gin',
                                "--gin.utils.DatasetConfig.split='validation'", f"--gin.EVAL_OUTPUT_DIR='{tmp_path}'")
  assert status == 0, errors
  assert 'e2e, 2 examples: sentence_bleu' in printed and 'corpus_bleu' in printed
  lines = list(map(json.loads, (tmp_path / 'inference_eval/e2e-000000.jsonl').read_text().splitlines()))
  assert [line['target'] for line in lines] == [['5 6', '6 5'], ['9 6']]
  infer = ['infer', *common, '--gin_file=runs/prompt_infer.gin', "--gin.infer_script.infer.lines='id||text'"]
  for split, keys in (('validation', ['7', '9']), ('test', ['0', '1', '2'])):
    folder = tmp_path / split
    status, printed, errors = run(*infer, f"--gin.utils.DatasetConfig.split='{split}'",
                                  f"--gin.INFER_OUTPUT_DIR='{folder}'")
    assert status == 0, errors
    found = [line.split('||') for line in (folder / 'e2e-predict.txt').read_text().splitlines()]
    assert [key for key, _ in found] == keys
    if split == 'validation':
      assert [text for _, text in found] == [line['prediction'] for line in lines]


@pytest.mark.parametrize(('more', 'message'), [
  (["--gin.infer_script.infer.lines='csv'"], r"lines is 'csv'\. Give one of 'json', 'id\|\|text'"),
  (["--gin.infer_script.infer.lines='id||text'", "--gin.infer_script.infer.mode='score'"],
   r"lines='id\|\|text' cannot be used with mode='score'"),
])
def test_lines_that_cannot_be_written_are_refused(described, more, message):
  with pytest.raises(ValueError, match=message):
    described('infer', *more)
