"""`prompt-tuning data`: rows as the model reads them, lengths, labels, what is cut, duplicates."""

import json

import numpy as np
import pytest
from chat_toys import ANSWER, USER, write_model

from prompt_tuning.data.vocabularies import PassThroughVocabulary
from prompt_tuning.evaluation import examples
from prompt_tuning.evaluation.examples import Split
from prompt_tuning.programs import command
from prompt_tuning.rows.layouts import CausalLayout, Layout, after_eos

VOCABULARY = PassThroughVocabulary(29)
ONE = [{'inputs': [5, 6, 7], 'targets': [8, 9], 'loss_weight': 2.0}]


@pytest.mark.parametrize('layout, lines', [
  (Layout(3), ['  encoder  [prompt 3] 5 6 7 1 [padding 1]', '  decoder  «8 9 1» [padding 1]']),
  (CausalLayout(3, placement=after_eos), ['  decoder  5 6 7 [prompt 3] «8 9 1» [padding 3]']),
  (CausalLayout(3), ['  decoder  [prompt 3] 5 6 7 «8 9 1» [padding 3]'])])
def test_a_row_shows_prompt_padding_and_what_is_learnt(layout, lines):
  found = list(examples.rows(ONE, VOCABULARY, layout, {'inputs': 5, 'targets': 4}))
  assert found == ['Example 1, loss weight 2', *lines]


def test_the_middle_of_a_long_row_is_left_out():
  long = [{'inputs': [5] * 100, 'targets': [8]}]
  (head, line) = examples.rows(long, VOCABULARY, CausalLayout(2), {'inputs': 100, 'targets': 2})
  assert head == 'Example 1'
  assert '[… 43 more …]' in line and line.endswith('«8 1»')
  assert next(examples.rows(long, VOCABULARY, CausalLayout(2), {'inputs': 50, 'targets': 2})) == 'Example 1, inputs cut'


def test_a_histogram_counts_every_length_once():
  counts = [3, 3, 4, 9, 30]
  lines = list(examples.histogram('inputs', counts, 20))
  assert lines[0] == 'Tokens of inputs: 3 to 30, median 4, 95 % up to 30, 99 % up to 30'
  assert sum(int(line.rpartition(' ')[2]) for line in lines[1:-1]) == len(counts)
  assert lines[-1] == '  1 of 5 are longer than 20 and would be cut: max_input_length=20'
  assert len(list(examples.histogram('targets', [2, 2], None))) == 2


def splits(**rows):
  return [Split(name, [{'inputs': text, 'targets': target} for text, target in pairs], len(pairs))
          for name, pairs in rows.items()]


def test_labels_are_counted_by_split():
  found = splits(train=[('a', 'yes')] * 3 + [('b', 'no')], validation=[('c', 'maybe'), ('d', 'yes')])
  lines = list(examples.labels(found, None))
  assert [line.split() for line in lines[:2]] == [['Target', 'train', 'validation'], ["'maybe'", '0', '(', '0.0%)', '1',
                                                                                      '(50.0%)']]
  assert lines[3].split()[:2] == ["'yes'", '3'] and lines[-1] == "Warning: train has no target 'maybe'."
  assert list(examples.labels(splits(train=[(f'{i}', f'{i}') for i in range(9)]), None)) == []


def test_duplicates_are_counted_within_and_between_splits():
  found = splits(train=[('a', 'yes'), ('a', 'yes'), ('b', 'no'), ('b', 'yes')], test=[('a', 'yes'), ('z', 'no')])
  assert list(examples.duplicates(found, None)) == [
    "train: 1 of 4 examples repeat an earlier one, such as 'a'", "train: 1 inputs have several targets, such as 'b'",
    "test: 1 of 2 inputs are in train too, such as 'a'"]


def test_the_command_shows_a_file_of_columns(tmp_path, capsys):
  rows = [{'text': f'{i % 20} 2 3', 'label': i % 2} for i in range(30)]
  (tmp_path / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  status = command.main(['data', str(tmp_path / 'rows.jsonl'), '--model', 't5_integers', '--template', '{text}',
                         '--target_template', '{label}', '--labels', '0=3,1=4', '--length', '7', '--rows', '1',
                         '--max_input_length', '3'])
  found = capsys.readouterr()
  assert status == 0, found.err
  assert 'rows.jsonl: train ' in found.out and '[prompt 7]' in found.out and '«' in found.out
  assert 'would be cut: --max_input_length=3' in found.out and "'3'" in found.out and 'repeat an earlier' in found.out


def test_conversations_are_shown_with_the_turns_that_are_learnt(tmp_path, capsys):
  write_model(tmp_path / 'chat')
  (tmp_path / 'chats.jsonl').write_text(json.dumps({'messages': [USER, ANSWER]}))
  status = command.main(['data', str(tmp_path / 'chats.jsonl'), '--model', str(tmp_path / 'chat'),
                         '--validation', '0'])
  found = capsys.readouterr()
  assert status == 0, found.err
  assert '«Y' in found.out and found.out.count('«') == 1


@pytest.mark.parametrize('argv, message', [
  (['rows.jsonl'], 'model is missing. Give --model=FOLDER'),
  (['gone.jsonl', '--model', 't5_integers'], 'gone.jsonl: there is no such'),
  (['rows.jsonl', '--model', 't5_integers', '--rows', '-1'], '--rows=-1 cannot be used'),
  (['rows.jsonl', '--model', 't5_integers', '--lenght', '3'], 'There is no flag --lenght. Did you mean --length'),
  (['--gin_file=a.gin'], 'cannot be used')])
def test_mistakes_are_said(argv, message, capsys):
  assert command.main(['data', *argv]) == 2
  assert message in capsys.readouterr().err


def test_vectors_are_compared_as_they_are():
  rows = [{'inputs': np.ones((2, 3)), 'targets': 'a'}, {'inputs': np.ones((2, 3)), 'targets': 'a'}]
  (line,) = examples.duplicates([Split('train', rows, 2)], None)
  assert line.startswith('train: 1 of 2 examples repeat')
