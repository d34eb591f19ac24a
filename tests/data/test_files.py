import gzip
import json

import pytest

from prompt_tuning.data import files, metrics, registry

LABELS = {'0': 'negative', '1': 'positive'}


def write_jsonl(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def test_a_file_with_the_plain_columns_is_a_task_by_its_path(tmp_path):
  path = write_jsonl(tmp_path / 'plain.jsonl', [{'inputs': 'a b', 'targets': 'c', 'id': 7}])
  task = registry.get(path)
  assert task.name == path
  assert task.split('all') == [{'inputs': 'a b', 'targets': 'c', 'id': 7}]
  assert task.metrics == (metrics.accuracy,)


def test_templates_and_label_maps_make_the_texts(tmp_path):
  rows = [{'text': 'it is good', 'the label': 1}, {'text': '{no}', 'the label': 0}]
  path = write_jsonl(tmp_path / 'sst2.jsonl', rows)
  task = files.FileTask(path, inputs='{{sst2}} sentence: {text}', targets='{the label}', labels=LABELS)
  assert task.split('all') == [
    {'text': 'it is good', 'the label': 1, 'inputs': '{sst2} sentence: it is good', 'targets': 'positive'},
    {'text': '{no}', 'the label': 0, 'inputs': '{sst2} sentence: {no}', 'targets': 'negative'}]


def test_the_label_map_says_what_a_target_may_be_where_it_is_of_one_column(tmp_path):
  path = write_jsonl(tmp_path / 'x.jsonl', [{'inputs': 'a', 'targets': 0}])
  of = lambda **given: files.FileTask(path, **given).labels
  assert of(labels={'0': 'no', '1': 'yes', 'true': 'yes'}) == ('no', 'yes')
  assert of(targets='it is {targets}.', labels={'0': 'no', '1': 'yes'}) == ('it is no.', 'it is yes.')
  assert of(targets='{targets} {targets}', labels={'0': 'no', '1': 'yes'}) == of() == ()


def test_labels_are_looked_up_as_json_spells_them(tmp_path):
  path = write_jsonl(tmp_path / 'a.jsonl', [{'inputs': 'x', 'targets': True}])
  assert files.FileTask(path, labels={'true': 'yes'}).split('all')[0]['targets'] == 'yes'


def test_a_tsv_file_names_its_columns_in_the_first_line(tmp_path):
  path = tmp_path / 'a.tsv'
  path.write_bytes('\ufefftext\tlabel\r\nan "apple" \t1\r\n\r\nzwei\u2028Zeilen\t0\r\n'.encode())
  task = files.FileTask(str(path), inputs='{text}', targets='{label}', labels=LABELS)
  assert [(e['inputs'], e['targets']) for e in task.split('all')] == [
    ('an "apple" ', 'positive'), ('zwei\u2028Zeilen', 'negative')]


def test_a_fraction_divides_the_file_and_keeps_equal_inputs_together(tmp_path):
  rows = [{'inputs': f'text {i % 400}', 'targets': str(i)} for i in range(800)]
  task = files.FileTask(write_jsonl(tmp_path / 'a.jsonl', rows), validation=0.25)
  train, validation = task.split('train'), task.split('validation')
  assert sorted(int(e['targets']) for e in [*train, *validation]) == list(range(800))
  assert not {e['inputs'] for e in train} & {e['inputs'] for e in validation}
  assert 0.2 < len(validation) / 800 < 0.3


def test_new_lines_move_no_example_to_the_other_side(tmp_path):
  rows = [{'inputs': f'text {i}', 'targets': 'x'} for i in range(60)]
  fewer = files.FileTask(write_jsonl(tmp_path / 'a.jsonl', rows[10:]), validation=0.5)
  more = files.FileTask(write_jsonl(tmp_path / 'b.jsonl', rows), validation=0.5)
  assert all(example in more.split('validation') for example in fewer.split('validation'))


def test_validation_and_test_may_be_files(tmp_path):
  paths = [write_jsonl(tmp_path / f'{n}.jsonl', [{'inputs': n, 'targets': n}]) for n in ('a', 'b', 'c')]
  task = files.FileTask(paths[0], validation=paths[1], test=paths[2], name='abc')
  assert [task.split(s)[0]['inputs'] for s in ('train', 'validation', 'test')] == ['a', 'b', 'c']
  assert task.name == 'abc'


@pytest.mark.parametrize(('content', 'message'), [
  ('', r'bad\.jsonl holds no example'),
  ('\n \n', r'bad\.jsonl holds no example'),
  ('{"inputs": "a", "targets": "b"}\n\n{"inputs": \n', r'bad\.jsonl:3: not JSON.*one JSON object per line'),
  ('["a", "b"]\n', r"bad\.jsonl:1: found '\[\"a\", \"b\"\]', expected a JSON object"),
  ('{"input": "a", "targets": "b"}\n', r"bad\.jsonl:1: there is no column 'inputs'; found input, targets\. Did you "),
  ('{"inputs": null, "targets": "b"}\n', r"bad\.jsonl:1: column 'inputs' is null; expected a string"),
  ('{"inputs": ["a"], "targets": "b"}\n', r"bad\.jsonl:1: column 'inputs' is a list"),
])
def test_a_bad_jsonl_line_is_named(tmp_path, content, message):
  path = tmp_path / 'bad.jsonl'
  path.write_text(content)
  with pytest.raises(ValueError, match=message):
    files.FileTask(str(path))


@pytest.mark.parametrize(('content', 'message'), [
  ('inputs\ttargets\na\tb\na\tb\tc\n', r'bad\.tsv:3: found 3 columns, but the first line names 2 \(inputs, targets\)'),
  ('inputs\ttargets\n', r'bad\.tsv holds no example'),
  ('inputs\tinputs\na\tb\n', r'bad\.tsv:1: the first line names a column twice'),
])
def test_a_bad_tsv_line_is_named(tmp_path, content, message):
  path = tmp_path / 'bad.tsv'
  path.write_text(content)
  with pytest.raises(ValueError, match=message):
    files.FileTask(str(path))


def test_bytes_that_are_not_utf8_are_named(tmp_path):
  path = tmp_path / 'bad.tsv'
  path.write_bytes(b'inputs\ttargets\nk\xe4se\tb\n')
  with pytest.raises(ValueError, match=r'bad\.tsv:2: not UTF-8'):
    files.FileTask(str(path))


def test_a_label_outside_the_map_names_the_known_ones(tmp_path):
  path = write_jsonl(tmp_path / 'a.jsonl', [{'inputs': 'x', 'targets': 0}, {'inputs': 'y', 'targets': 2}])
  with pytest.raises(ValueError, match=r"a\.jsonl:2: column 'targets' holds '2', but the label map has only '0', '1'"):
    files.FileTask(path, labels=LABELS)


@pytest.mark.parametrize('template', ['text', '', '{}', '{text', '{text:>9}', '{text!r}'])
def test_a_template_that_names_no_column_is_refused(tmp_path, template):
  path = write_jsonl(tmp_path / 'a.jsonl', [{'inputs': 'x', 'targets': 'y', 'text': 'z'}])
  with pytest.raises(ValueError, match=r'The template .* for inputs'):
    files.FileTask(path, inputs=template)


def test_a_share_that_leaves_nothing_to_train_on_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'validation=1\.0'):
    files.FileTask(write_jsonl(tmp_path / 'a.jsonl', [{'inputs': 'x', 'targets': 'y'}]), validation=1.0)


def test_a_file_that_does_not_exist_or_has_another_ending_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'gone\.jsonl: there is no such file'):
    registry.get(str(tmp_path / 'gone.jsonl'))
  with pytest.raises(ValueError, match=r'a\.csv is neither a \.jsonl nor a \.tsv file'):
    files.FileTask(str(tmp_path / 'a.csv'))


def test_inputs_to_predict_are_read_from_text_jsonl_and_tsv(tmp_path):
  text = tmp_path / 'a.txt'
  text.write_text('one line\n\nthe third\n')
  assert files.read_inputs(str(text)) == [{'inputs': 'one line'}, {'inputs': ''}, {'inputs': 'the third'}]
  table = tmp_path / 'a.tsv'
  table.write_text('id\ttext\n7\thello\n')
  assert files.read_inputs(str(table), inputs='say: {text}') == [{'id': '7', 'text': 'hello', 'inputs': 'say: hello'}]
  assert files.read_inputs(write_jsonl(tmp_path / 'a.jsonl', [{'inputs': 'x'}])) == [{'inputs': 'x'}]


def test_a_compressed_file_is_unpacked_line_by_line_and_never_as_a_whole(tmp_path, monkeypatch):
  monkeypatch.setattr(files, '_LINE_BYTES', 1000)
  with gzip.open(tmp_path / 'bomb.txt.gz', 'wb') as bomb:
    bomb.write(b'first\r\n\n' + b'1 ' * 10**6)
  lines = files.read_lines(str(tmp_path / 'bomb.txt.gz'))
  assert [next(lines), next(lines)] == [(1, 'first'), (2, '')]
  with pytest.raises(ValueError, match=r'bomb.txt.gz:3: the line is longer than 1,000 bytes'):
    next(lines)


def test_the_byte_order_mark_belongs_to_no_line_and_the_last_line_needs_no_end(tmp_path):
  (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbfone\n\xef\xbb\xbftwo')
  assert list(files.read_lines(str(tmp_path / 'a.txt'))) == [(1, 'one'), (2, '\ufefftwo')]
  (tmp_path / 'b.txt').write_bytes(b'\xef\xbb\xbf')
  assert list(files.read_lines(str(tmp_path / 'b.txt'))) == []


def test_half_of_a_character_is_an_error_with_its_line(tmp_path):
  (tmp_path / 'a.jsonl').write_text('{"inputs": "\\ud83d\\ude00"}\n{"inputs": "\\uD83D"}\n')
  with pytest.raises(ValueError, match=r"a.jsonl:2: holds half of a character, '\\ud83d'"):
    files.read_table(str(tmp_path / 'a.jsonl'))


def test_a_line_that_is_nested_deeply_is_an_error(tmp_path):
  (tmp_path / 'a.jsonl').write_text('{"inputs": ' + '[' * 100_000 + '\n')
  with pytest.raises(ValueError, match=r'a.jsonl:1: not JSON'):
    files.read_table(str(tmp_path / 'a.jsonl'))
