"""Converts MRQA files to tables."""

import gzip
import json

import pytest

from prompt_tuning.data.files import FileTask

HEADER = {'header': {'dataset': 'toy', 'split': 'dev'}}
CONTEXTS = [
  {'context': 'Bees\tmake\nhoney.', 'qas': [
    {'qid': 'a1', 'question': 'Who makes honey?', 'answers': ['Bees', 'the "bees"'], 'detected_answers': []},
    {'qid': 'a2', 'question': 'What|s that?', 'answers': []}]},
  {'context': 'Schnee fällt.', 'qas': [{'qid': 'b1', 'question': '"Was" fällt?', 'answers': ['Schnee']}]},
]


@pytest.fixture
def mrqa(tmp_path):
  path = tmp_path / 'toy.jsonl.gz'
  path.write_bytes(gzip.compress('\n'.join(map(json.dumps, [HEADER, *CONTEXTS])).encode()))
  return path


def test_each_question_is_a_line_beside_the_input(script, mrqa, tmp_path):
  assert script('mrqa_to_tsv', '--jsonl', mrqa)[:2] == (0, f'Wrote {tmp_path}/toy.tsv: 3 questions\n')
  assert (tmp_path / 'toy.tsv').read_text().split('\n') == [
    'id\tquestion\tcontext\tanswer\tanswers',
    'a1\tWho makes honey?\tBees make honey.\tBees\t["Bees", "the \\"bees\\""]',
    'a2\tWhat|s that?\tBees make honey.\t\t[]',
    'b1\t"Was" fällt?\tSchnee fällt.\tSchnee\t["Schnee"]', '']


def test_the_table_is_one_that_tasks_read(script, mrqa, tmp_path):
  script('mrqa_to_tsv', '--jsonl', mrqa)
  task = FileTask(str(tmp_path / 'toy.tsv'), inputs='{question} {context}', targets='{answer}')
  examples = task.splits['all']
  assert [example['targets'] for example in examples] == ['Bees', '', 'Schnee']
  assert examples[2]['inputs'] == '"Was" fällt? Schnee fällt.'
  assert json.loads(examples[0]['row']['answers']) == ['Bees', 'the "bees"']


@pytest.mark.parametrize('header', ['--noheader', '--header=false'])
def test_another_delimiter_and_no_header(script, mrqa, tmp_path, header):
  assert script('mrqa_to_tsv', f'--jsonl={mrqa}', f'--output={tmp_path}/out.txt', '--delim=|', header)[0] == 0
  lines = (tmp_path / 'out.txt').read_text().splitlines()
  assert [line.split('|')[:2] for line in lines] == [
    ['a1', 'Who makes honey?'], ['a2', 'What s that?'], ['b1', '"Was" fällt?']]


def test_an_uncompressed_file_without_a_header_object_is_read(script, tmp_path):
  (tmp_path / 'toy.jsonl').write_text(json.dumps(CONTEXTS[1]) + '\n')
  assert script('mrqa_to_tsv', f'--jsonl={tmp_path}/toy.jsonl', '--header', '--delim', '\\t')[0] == 0
  assert len((tmp_path / 'toy.tsv').read_text().splitlines()) == 2


@pytest.mark.parametrize('line, message', [
  ('{"context": "a", "qas": [{"question": "b"}]}', ":2: KeyError: 'qid'. Expected a line of MRQA"),
  ('[1]', ':2: TypeError'), ('{"context', ':2: JSONDecodeError')])
def test_a_line_that_is_not_of_mrqa_is_refused_by_its_number(refused, tmp_path, line, message):
  (tmp_path / 'bad.jsonl').write_text(f'{json.dumps(HEADER)}\n{line}\n')
  assert f'bad.jsonl{message}' in refused('mrqa_to_tsv', f'--jsonl={tmp_path}/bad.jsonl')
  assert not (tmp_path / 'bad.tsv').exists()


def test_damaged_and_absent_files_are_refused(refused, mrqa, tmp_path):
  mrqa.write_bytes(mrqa.read_bytes()[:40])
  assert 'EOFError' in refused('mrqa_to_tsv', f'--jsonl={mrqa}')
  assert 'there is no such file. Check --jsonl' in refused('mrqa_to_tsv', f'--jsonl={tmp_path}/absent')
  assert "--delim='x' cannot separate columns" in refused('mrqa_to_tsv', f'--jsonl={mrqa}', '--delim=x')
