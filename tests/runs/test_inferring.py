"""What a run that predicts reads: examples, and the columns that are written with the results."""

import json

import pytest

from prompt_tuning.data import table_files
from prompt_tuning.runs import inferring, training
from prompt_tuning.runs.infer_run import InferRun


def examples(path, **settings):
  return inferring.examples(InferRun(model='t5_integers', data=str(path), output='out.jsonl', **settings))


def test_a_table_is_read_once_and_its_columns_are_written(tmp_path, monkeypatch):
  (tmp_path / 'a.csv').write_text('id,inputs_ends,text\n7,x,"1, 2"\n')
  read, paths = table_files.read_lines, []
  monkeypatch.setattr(table_files, 'read_lines', lambda path: paths.append(path) or read(path))
  found, rows = examples(tmp_path / 'a.csv', template='Sum: {text}')
  assert (found[0]['inputs'], rows) == ('Sum: 1, 2', [{'id': '7', 'inputs_ends': 'x', 'text': '1, 2'}])
  assert len(paths) == 1


def test_a_split_has_the_columns_of_its_rows(tmp_path):
  rows = [{'id': i, 'inputs': f'{i}', 'targets': '1'} for i in range(40)]
  (tmp_path / 'a.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  found, columns = examples(tmp_path / 'a.jsonl', split='validation', validation=0.3)
  assert 0 < len(found) < 40 and columns == [rows[int(example['inputs'])] for example in found]


@pytest.mark.parametrize(('mode', 'column'), [
  ('predict', 'prediction'), ('predict_with_aux', 'prediction'), ('predict_with_aux', 'aux'), ('score', 'score')])
def test_a_column_is_never_replaced_by_a_result(tmp_path, mode, column):
  (tmp_path / 'a.jsonl').write_text(json.dumps({'inputs': '1', 'targets': '1', column: 'mine'}) + '\n')
  with pytest.raises(ValueError, match=rf"already has a column '{column}', which the results are written to"):
    examples(tmp_path / 'a.jsonl', mode=mode)


def test_a_text_file_that_holds_a_table_is_refused(tmp_path):
  (tmp_path / 'a.txt').write_text('1\t2\n3\t4\n')
  with pytest.raises(ValueError, match=r'a.txt holds values separated by tabs'):
    examples(tmp_path / 'a.txt')


def test_a_folder_above_the_output_that_is_made_is_said(tmp_path, capsys):
  training.say_new_folder(str(tmp_path / 'a.jsonl'))
  assert capsys.readouterr().err == ''
  training.say_new_folder(str(tmp_path / 'gone/a.jsonl'))
  assert capsys.readouterr().err == f'The folder {tmp_path}/gone does not exist yet; it will be created.\n'
