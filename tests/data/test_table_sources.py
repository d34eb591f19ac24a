"""Where tables come from besides text files: Parquet, the Hugging Face hub, frames; and columns of other names."""

import dataclasses
import sys
import types

import pytest
from chat_toys import ANSWER, USER, write_folder

from prompt_tuning.data import files, hub_tables, tables
from prompt_tuning.data.row_forms import RowReader
from prompt_tuning.data.tasks import is_table
from prompt_tuning.data.vocabulary_folders import load_vocabulary
from prompt_tuning.runs import flags
from prompt_tuning.runs.infer_run import InferRun

ROWS = [{'text': 'good', 'label': 1}, {'text': 'bad', 'label': 0}]


def parquet(path, rows):
  pyarrow = pytest.importorskip('pyarrow')
  from pyarrow import parquet

  parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  return str(path)


def test_a_parquet_file_is_read_like_jsonl(tmp_path):
  path = parquet(tmp_path / 'a.parquet', ROWS)
  task = files.FileTask(path, inputs='Review: {text}', targets='{label}', labels={0: 'no', 1: 'yes'}, validation=0.0)
  assert [(each['inputs'], each['targets'], each['row']) for each in task.split('all')] == [
    ('Review: good', 'yes', ROWS[0]), ('Review: bad', 'no', ROWS[1])]
  with pytest.raises(ValueError, match=r"a\.parquet: row 1: there is no column 'txt'; found text, label\. Did"):
    files.FileTask(path, inputs='{txt}', targets='{label}')
  (tmp_path / 'b.parquet').write_bytes(b'PAR1 is how it begins')
  with pytest.raises(ValueError, match=r'b\.parquet cannot be read as Parquet \(.*Write it again'):
    files.FileTask(str(tmp_path / 'b.parquet'))
  with pytest.raises(FileNotFoundError, match=r'gone\.parquet: there is no such file'):
    files.FileTask(str(tmp_path / 'gone.parquet'))


def test_conversations_of_a_parquet_file_are_examples(tmp_path):
  vocabulary = load_vocabulary(write_folder(tmp_path / 'model'))
  path = parquet(tmp_path / 'a.parquet', [{'conversations': [USER, {**ANSWER, 'name': 'x'}]}])
  (example,) = files.FileTask(path, columns={'messages': 'conversations'}, validation=0.0,
                              vocabulary=vocabulary).split('all')
  assert example['targets_pretokenized'] == 'Yes, very.' and list(example['row']) == ['conversations']


def test_without_pyarrow_a_parquet_file_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  with pytest.raises(ImportError, match=r'a\.parquet is a Parquet file, which pyarrow.*`pip install .\.\[hub\].`'):
    files.FileTask('a.parquet')


@pytest.fixture
def library(monkeypatch):
  """A stand-in for `datasets`, which records what is loaded."""
  loaded = []

  def load_dataset(*given, **options):
    loaded.append((given, options))
    if options['split'] == 'dev':
      raise ValueError('Unknown split "dev". Should be one of [\'train\', \'test\'].')
    info = types.SimpleNamespace(splits={'train': 2, 'test': 1})
    return types.SimpleNamespace(to_list=lambda: ROWS, info=info, split=options['split'])

  monkeypatch.setitem(sys.modules, 'datasets', types.SimpleNamespace(
    load_dataset=load_dataset, disable_progress_bars=lambda: None))
  hub_tables.read.cache_clear()
  yield loaded
  hub_tables.read.cache_clear()


@pytest.mark.parametrize('address, given, split, revision', [
  ('hf://datasets/acme/reviews', ('acme/reviews', None), 'train', None),
  ('hf://datasets/acme/reviews@v2/small:test', ('acme/reviews', 'small'), 'test', 'v2'),
  ('hf://datasets/acme/reviews:test', ('acme/reviews', None), 'test', None)])
def test_a_data_set_of_the_hub_is_a_table(library, address, given, split, revision):
  assert is_table(address)
  task = files.FileTask(address, inputs='{text}', targets='{label}', validation=0.0)
  assert [each['inputs'] for each in task.split('all')] == ['good', 'bad']
  assert library == [(given, {'split': split, 'revision': revision})]


def test_splits_that_are_not_read_are_said(library, caplog):
  hub_tables.read('hf://datasets/acme/reviews/small')
  assert ('hf://datasets/acme/reviews/small: the split train is read. The data set also has test, which is '
          'read only where it is named, as in validation=hf://datasets/acme/reviews/small:test') in caplog.text
  caplog.clear()
  hub_tables.read('hf://datasets/acme/reviews/small:train')
  assert caplog.text == ''


@pytest.mark.parametrize('address, error, message', [
  ('hf://datasets/acme', ValueError, r'hf://datasets/acme is not the address of a data set. Give hf://datasets/OWNER'),
  ('hf://datasets/acme/reviews:dev', OSError, r'cannot be read \(ValueError: Unknown split "dev".*\)\. Check the name'),
  ('hf://datasets/acme/reviews/a.jsonl:test', ValueError, r"names the split 'test' of a file, which has none")])
def test_what_is_wrong_with_an_address_is_said(library, address, error, message):
  with pytest.raises(error, match=message):
    files.FileTask(address)


def test_without_datasets_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'datasets', None)
  with pytest.raises(ImportError, match=r'is read with datasets, which is not installed: `pip install .\.\[hub\].`'):
    hub_tables.read('hf://datasets/acme/other')


def example_of(columns, row, **settings):
  (example,) = RowReader(columns=columns, **settings)([('a.jsonl:1', row)])
  return example


def test_columns_of_other_names_have_a_meaning_by_a_map():
  row = {'question': 'a', 'answer': 'b', 'prompt': 'not this'}
  assert example_of({'prompt': 'question', 'completion': 'answer'}, row) == {
    'inputs': 'a', 'targets': 'b', 'row': row}
  assert example_of({'inputs': 'question', 'targets': 'answer'}, row)['targets'] == 'b'
  assert example_of({'inputs': 'question'}, {**row, 'targets': 'c'})['targets'] == 'c'
  assert example_of({'prompt': 'question'}, row, inputs='Q: {prompt}', targets='{answer}')['inputs'] == 'Q: a'
  assert example_of({'inputs': 'question', 'targets': 'gone'}, row, targets=None)['inputs'] == 'a'  # to predict


@pytest.mark.parametrize('columns, settings, message', [
  ({'input': 'a'}, {}, r"columns= has no column 'input'. Did you mean inputs"),
  ({'inputs': 'question', 'messages': 'a'}, {}, r'columns= with inputs, messages cannot be used: these are of two'),
  ({'prompt': 'question'}, {'inputs': '{a}', 'targets': '{b}'}, r'cannot be used: no template has \{prompt\}'),
  ({'inputs': 'quesion'}, {}, r"a.jsonl:1: there is no column 'quesion', which columns=inputs=quesion names; found "
                              r'question\. Did you mean question')])
def test_a_map_that_cannot_be_used_is_an_error(columns, settings, message):
  with pytest.raises(ValueError, match=message):
    example_of(columns, {'question': 'a'}, **settings)


def test_the_map_is_the_same_on_the_command_line(tmp_path):
  run = flags.run_of('train', {'model': 'm', 'data': 'a.jsonl', 'output': 'o',
                               'columns': 'prompt=question,completion=answer'}, None)
  assert run.columns == {'prompt': 'question', 'completion': 'answer'}
  (tmp_path / 'run.toml').write_text('model = "m"\n[columns]\nprompt = "question"\n')
  later = InferRun.after(str(tmp_path), {'data': 'b.jsonl', 'output': 'c.jsonl'})
  assert later.columns == {'prompt': 'question'}
  assert dataclasses.replace(later, split='all').file_settings()


def test_a_dict_of_splits_is_not_one_table():
  split = types.SimpleNamespace(column_names=('text',))
  with pytest.raises(ValueError, match=r"The examples are the splits train, test of a data set.*as data\['train'\]"):
    tables.records({'train': split, 'test': split})


def test_a_lazy_frame_is_collected():
  frame = types.SimpleNamespace(collect=lambda: types.SimpleNamespace(to_dicts=lambda: ROWS))
  assert tables.records(frame) == ROWS


@pytest.mark.slow
def test_frames_and_data_sets_of_their_libraries_are_the_same_tables():
  datasets, pandas = pytest.importorskip('datasets'), pytest.importorskip('pandas')
  found = [ROWS, datasets.Dataset.from_list(ROWS), datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
           pandas.DataFrame(ROWS), (row for row in ROWS)]
  read = lambda table: [(each['inputs'], each['targets']) for each in files.FileTask(
    table, inputs='{text}', targets='{label}', validation=0.0).split('all')]
  assert [read(table) for table in found] == [[('good', '1'), ('bad', '0')]] * len(found)


@pytest.mark.parametrize('path', ['hf://acme/reviews', 'hf:/datasets/acme/reviews/a.jsonl'])
def test_an_address_that_begins_otherwise_is_told_how_they_do(path):
  with pytest.raises(ValueError, match=r'Give hf://datasets/OWNER/NAME'):
    files.FileTask(path)
