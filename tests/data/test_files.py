import gzip
import json
import pickle

import numpy as np
import pytest

from prompt_tuning.data import files, metrics, pipeline, registry, table_files
from prompt_tuning.data.preprocessing import Preprocessor
from prompt_tuning.data.tasks import RESERVED
from prompt_tuning.data.templates import Templates
from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.evaluation.predictions import readable, text_of
from prompt_tuning.rows import layouts

LABELS = {'0': 'negative', '1': 'positive'}


def write_jsonl(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def test_a_file_with_the_plain_columns_is_a_task_by_its_path(tmp_path):
  path = write_jsonl(tmp_path / 'plain.jsonl', [{'inputs': 'a b', 'targets': 'c', 'id': 7}])
  task = registry.get(path)
  assert task.name == path
  row = {'inputs': 'a b', 'targets': 'c', 'id': 7}
  assert task.split('all') == [{'inputs': 'a b', 'targets': 'c', 'row': row}]
  assert task.metrics == (metrics.accuracy,)


def test_templates_and_label_maps_make_the_texts(tmp_path):
  rows = [{'text': 'it is good', 'the label': 1}, {'text': '{no}', 'the label': 0}]
  path = write_jsonl(tmp_path / 'sst2.jsonl', rows)
  task = files.FileTask(path, inputs='{{sst2}} sentence: {text}', targets='{the label}', labels=LABELS)
  assert task.split('all') == [
    {'inputs': '{sst2} sentence: it is good', 'targets': 'positive', 'row': rows[0]},
    {'inputs': '{sst2} sentence: {no}', 'targets': 'negative', 'row': rows[1]}]


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


def test_a_fraction_divides_the_file_and_keeps_equal_rows_together(tmp_path):
  rows = [{'inputs': f'text {i % 400}', 'targets': str(i % 400)} for i in range(800)]
  task = files.FileTask(write_jsonl(tmp_path / 'a.jsonl', rows), validation=0.25)
  train, validation = task.split('train'), task.split('validation')
  assert sorted(int(e['targets']) for e in [*train, *validation]) == sorted([*range(400)] * 2)
  assert not {e['inputs'] for e in train} & {e['inputs'] for e in validation}
  assert 0.2 < len(validation) / 800 < 0.3


def test_templates_and_file_formats_have_the_same_validation_rows(tmp_path):
  rows = [{'text': f'text {i % 9}', 'label': i % 2, 'id': i} for i in range(80)]
  path = write_jsonl(tmp_path / 'a.jsonl', rows)
  (tmp_path / 'a.csv').write_text('id,label,text\n' + ''.join(f'{r["id"]},{r["label"]},{r["text"]}\n' for r in rows))
  held_out = lambda source, **templates: [int(e['row']['id']) for e in files.FileTask(
    source, validation=0.3, **templates).split('validation')]
  plain = held_out(path, inputs='{text}', targets='{label}')
  assert 0 < len(plain) < 80
  assert held_out(path, inputs='{id}: {text}?', targets='{label}', labels=LABELS) == plain
  assert held_out(str(tmp_path / 'a.csv'), inputs='{text}', targets='{label}') == plain
  assert held_out([{**row, 'id': np.int64(row['id'])} for row in rows], inputs='{text}', targets='{label}') == plain


@pytest.mark.parametrize('value', [0, 'nan', False, '', 'other', None, [3], {'a': 1}])
@pytest.mark.parametrize('name', sorted({*RESERVED} - {'inputs', 'targets'}))
def test_a_column_has_no_meaning_by_its_name(tmp_path, name, value):
  vocabulary, plain = PassThroughVocabulary(29), {'inputs': '3 1 2', 'targets': '1 2 3'}

  def seen(row):
    (example,) = files.FileTask(write_jsonl(tmp_path / 'a.jsonl', [row]), validation=0.0).split('all')
    arrays = pipeline.Preprocessor(vocabulary, layouts.Layout(), {})(example)
    return str(arrays), text_of(example, 'inputs', vocabulary), text_of(example, 'targets', vocabulary)

  assert seen(plain | {name: value}) == seen(plain)


def test_the_columns_are_shown_beside_the_texts_and_none_is_lost():
  row = {'inputs': 'a', 'targets': 'b', 'id': 7, 'targets_pretokenized': 'c'}
  (example,) = files.FileTask([row], inputs='Q: {inputs}').split('all')
  assert readable(example, None) == {'inputs_pretokenized': 'Q: a', 'targets_pretokenized': 'b', 'inputs': 'a', 'id': 7,
                                     'row.targets_pretokenized': 'c'}


def test_a_column_of_loss_weights_is_named(tmp_path):
  path = write_jsonl(tmp_path / 'a.jsonl', [{'inputs': 'x', 'targets': 'y', 'w': weight} for weight in (0.5, 0, '2')])
  assert [e['loss_weight'] for e in files.FileTask(path, loss_weight='w').split('all')] == [0.5, 0.0, 2.0]
  assert 'loss_weight' not in files.FileTask(path).split('all')[0]
  for wrong in ('high', 'nan', 'inf', -1, True):
    path = write_jsonl(tmp_path / 'a.jsonl', [{'inputs': 'x', 'targets': 'y', 'w': wrong}])
    with pytest.raises(ValueError, match=r"a\.jsonl:1: column 'w' holds .*, but loss_weight=w needs numbers"):
      files.FileTask(path, loss_weight='w')
  with pytest.raises(ValueError, match=r"a\.jsonl:1: there is no column 'weight'; .* as loss_weight=COLUMN"):
    files.FileTask(path, loss_weight='weight')


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
  ('{"inputs": "a", "targets": "b", "inputs": "c"}\n', r"bad\.jsonl:1: not JSON \(the key 'inputs' occurs twice"),
  ('{"inputs": "\\ud800", "targets": "b"}\n', r"bad\.jsonl:1: column 'inputs': .*'\\ud800'\) at its start"),
  ('{"inputs": ' + '[' * 100_000 + '\n', r'bad\.jsonl:1: not JSON'),
  ('{"inputs": NaN, "targets": "b"}\n', r"bad\.jsonl:1: column 'inputs' is nan"),
  ('{"inputs": null, "targets": "b"}\n', r"bad\.jsonl:1: column 'inputs' is null; expected a string"),
  ('{"inputs": ["a"], "targets": "b"}\n', r"bad\.jsonl:1: column 'inputs' is a list"),
  ('{"inputs": "a", "targets": "b"}\n{"inputs": "a", "targets": "b", "note": ["hm \\uD83D"]}\n',
   r"bad\.jsonl:2: column 'note': .*half of a character \(the surrogate '\\ud83d'\)"),
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
  ('inputs\ttargets\n"a\tb\nc"\td\n', r'bad\.tsv:2: a value begins with a quotation mark and ends in line 3'),
  ('inputs\ttargets\n"a\tb\nc\td\n', r'bad\.tsv:2: unexpected end of data'),
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


def test_a_template_or_a_row_in_memory_that_is_not_utf8_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"examples\[1\]: column 'inputs': A text has half of a character"):
    files.FileTask([('x', 'y'), ('\ud83d', 'y')])
  with pytest.raises(ValueError, match=r"half of a character \(the surrogate '\\udcff'\) after '{text} '"):
    files.FileTask(write_jsonl(tmp_path / 'a.jsonl', [{'text': 'x', 'targets': 'y'}]), inputs='{text} \udcff')


def test_a_share_that_leaves_nothing_to_train_on_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'validation=1\.0'):
    files.FileTask(write_jsonl(tmp_path / 'a.jsonl', [{'inputs': 'x', 'targets': 'y'}]), validation=1.0)


def test_a_file_that_does_not_exist_or_has_another_ending_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'gone\.jsonl: there is no such file'):
    registry.get(str(tmp_path / 'gone.jsonl'))
  with pytest.raises(FileNotFoundError, match=r'gone\.json: there is no such file'):
    files.FileTask(str(tmp_path / 'gone.json'))


@pytest.mark.parametrize(('name', 'content', 'message'), [
  ('a.json', b'{"inputs": "a"}\n', r'holds one JSON object a line, but .* Rename it to .*a\.jsonl\.$'),
  ('a.json', b'[{"inputs": "a"}]', r'a\.json is a file of another kind: expected a \.jsonl file with one JSON object'),
  ('a.txt', b'a\n', r'a\.txt is a file of another kind'),
  ('a.feather', b'\xff\x00', r'a\.feather is a file of another kind'),
  ('', b'', r'is a folder, not a file of examples\. Give a \.jsonl file'),
])
def test_what_exists_but_is_no_table_is_not_taken_for_the_name_of_a_task(tmp_path, name, content, message):
  if name:
    (tmp_path / name).write_bytes(content)
  for read in (registry.get, files.read_table):
    with pytest.raises(ValueError, match=message):
      read(str(tmp_path / name))


def test_csv_is_read_as_spreadsheets_write_it(tmp_path):
  long = 'x' * 200_000
  (tmp_path / 'A.CSV').write_bytes(f'inputs,targets\r\n"a, ""b""\r\nc",d\r\n\r\n{long},\r\n'.encode())
  task = registry.get(str(tmp_path / 'A.CSV'))
  assert [(e['inputs'], e['targets']) for e in task.split('all')] == [('a, "b"\nc', 'd'), (long, '')]
  (tmp_path / 'bad.csv').write_text('inputs,targets\n"a\nb",c\nd\n')
  with pytest.raises(ValueError, match=r'bad\.csv:4: found 1 columns'):
    files.FileTask(str(tmp_path / 'bad.csv'))


def test_quoted_values_of_a_tsv_file_are_unquoted(tmp_path):
  (tmp_path / 'a.tsv').write_text('inputs\ttargets\n"a ""b"""\tan "apple"\n')
  (example,) = files.FileTask(str(tmp_path / 'a.tsv'), validation=0.0).split('all')
  assert (example['inputs'], example['targets']) == ('a "b"', 'an "apple"')


def test_quotation_marks_of_a_tsv_file_that_is_not_quoted_are_part_of_the_texts(tmp_path, caplog):
  (tmp_path / 'a.tsv').write_text('inputs\ttargets\n"Good"\tx\n"Good" film\t"\n')
  found = files.FileTask(str(tmp_path / 'a.tsv'), validation=0.0).split('all')
  assert [(e['inputs'], e['targets']) for e in found] == [('"Good"', 'x'), ('"Good" film', '"')]
  files.read_table(str(tmp_path / 'a.tsv'))
  (note,) = caplog.messages
  assert note.startswith(f'{tmp_path}/a.tsv:3 has a value that goes on after its quotation')


def test_labels_may_be_given_as_numbers(tmp_path):
  path = write_jsonl(tmp_path / 'a.jsonl', [{'inputs': 'x', 'targets': 1}])
  assert files.FileTask(path, labels={0: 'negative', 1: 'positive'}).split('all')[0]['targets'] == 'positive'
  for wrong in ({0: 'a', '0': 'b'}, {None: 'a'}, {0: None}, {}, 'ab'):
    with pytest.raises(ValueError, match=r'labels=.* cannot be used: expected one text for each value'):
      files.FileTask(path, labels=wrong)


def test_inputs_to_predict_are_read_from_text_jsonl_and_tsv(tmp_path):
  text = tmp_path / 'a.txt'
  text.write_text('one line\n\nthe third\n')
  assert files.read_inputs(str(text)) == [{'inputs': 'one line'}, {'inputs': ''}, {'inputs': 'the third'}]
  table = tmp_path / 'a.tsv'
  table.write_text('id\ttext\n7\thello\n')
  assert files.read_inputs(str(table), inputs='say: {text}') == [
    {'inputs': 'say: hello', 'row': {'id': '7', 'text': 'hello'}}]
  (tmp_path / 'a.jsonl.gz').write_bytes(gzip.compress(b'{"inputs": "x"}\n'))
  assert files.read_inputs(str(tmp_path / 'a.jsonl.gz')) == [{'inputs': 'x', 'row': {'inputs': 'x'}}]


@pytest.mark.parametrize('content', ['{"inputs": "a"}\n', '[\n{"a": 1}\n]\n', '[{"a": 1}]', 'a\tb\nc\td\n'])
def test_a_table_is_never_read_line_by_line(tmp_path, content):
  (tmp_path / 'a.txt').write_text(content)
  with pytest.raises(ValueError, match=r'a.txt holds (JSON|values separated by tabs), so a line of it is not a text'):
    files.read_inputs(str(tmp_path / 'a.txt'))


def test_a_compressed_file_is_unpacked_line_by_line_and_never_as_a_whole(tmp_path, monkeypatch):
  monkeypatch.setattr(table_files, '_LINE_BYTES', 1000)
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
  with pytest.raises(ValueError, match=r"a.jsonl:2: column 'inputs': A text has half of a character"):
    files.read_table(str(tmp_path / 'a.jsonl'))


def test_a_line_that_is_nested_deeply_is_an_error(tmp_path):
  (tmp_path / 'a.jsonl').write_text('{"inputs": ' + '[' * 100_000 + '\n')
  with pytest.raises(ValueError, match=r'a.jsonl:1: not JSON'):
    files.read_table(str(tmp_path / 'a.jsonl'))


@pytest.mark.parametrize(('cut', 'wanted'), [('right', 'Review: 1 2 Sentiment:'), ('left', 'Review: 8 9 Sentiment:')])
def test_the_columns_of_a_template_are_cut_and_not_its_words(cut, wanted):
  vocabulary = WordVocabulary()
  fill = Templates('Review: {text} Sentiment:', '{label}', cut=cut)
  example = pickle.loads(pickle.dumps(fill(('here', {'text': '1 2 3 4 5 6 7 8 9', 'label': 'x'}))))
  preprocess = Preprocessor(vocabulary, layouts.Layout(), {'inputs': 5, 'targets': 2})
  inputs, _ = preprocess.ids(example)
  assert ' '.join(vocabulary.words[i] for i in inputs[:-1]) == wanted and inputs[-1] == vocabulary.eos_id
  assert preprocess.truncated['inputs'] == 1
  short = Preprocessor(vocabulary, layouts.Layout(), {'inputs': 2, 'targets': 2})  # the words alone are too long
  assert [vocabulary.words[i] for i in short.ids(example)[0][:-1]] == ['Review:']


class WordVocabulary:
  """Words as ids."""

  eos_id, end_ids, start = 1, (1,), ()

  def __init__(self):
    self.words = {}

  def encode(self, text):
    ids = [2 + sum(map(ord, word)) for word in text.split()]
    self.words.update(zip(ids, text.split(), strict=True))
    return ids


def test_a_metric_is_given_once():
  with pytest.raises(ValueError, match=r'metrics=accuracy,f1,accuracy names accuracy twice\. Give each'):
    files.FileTask([('a', 'b')], metrics=('accuracy', 'f1', 'accuracy'))
