"""Rows of files that are conversations, or prompts with completions."""

import json

import pytest
from chat_toys import ANSWER, LAST, MORE, SYSTEM, USER, write_folder

from prompt_tuning.data import files
from prompt_tuning.data.digest import digest
from prompt_tuning.data.pipeline import TrainBatches, eval_batches
from prompt_tuning.data.turn_checks import check_turns
from prompt_tuning.data.vocabulary_folders import load_vocabulary
from prompt_tuning.rows import layouts
from prompt_tuning.rows.layouts import CausalLayout

TURNS = [SYSTEM, USER, ANSWER, MORE, LAST]


@pytest.fixture
def vocabulary(tmp_path):
  return load_vocabulary(write_folder(tmp_path / 'model'))


def jsonl(tmp_path, rows):
  (tmp_path / 'chats.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(tmp_path / 'chats.jsonl')


def read(tmp_path, rows, vocabulary, **given):
  return files.FileTask(jsonl(tmp_path, rows), validation=0.0, vocabulary=vocabulary, **given).split('all')


def test_a_row_of_messages_is_an_example_and_keeps_its_columns(tmp_path, vocabulary):
  (example,) = read(tmp_path, [{'messages': TURNS, 'id': 7, 'w': 2}], lambda: vocabulary, loss_weight='w')
  assert example['inputs_pretokenized'].endswith('Sure?<|im_end|>\n<|im_start|>assistant\n')
  assert (example['targets_pretokenized'], example['loss_weight'], example['row']['id']) == ('Yes.', 2.0, 7)
  assert example['inputs'].weights.sum() == len(vocabulary.encode('Yes, very.')) + 1


def test_only_the_turns_of_a_completion_of_messages_are_trained(tmp_path, vocabulary):
  (example,) = read(tmp_path, [{'prompt': TURNS[:2], 'completion': TURNS[2:]}], vocabulary)
  assert example['inputs'].weights.any()
  (example,) = read(tmp_path, [{'prompt': TURNS[:4], 'completion': [LAST]}], vocabulary)
  assert example['inputs'].weights is None and example['targets_pretokenized'] == 'Yes.'


def test_texts_of_prompt_and_completion_are_plain_texts(tmp_path):
  (example,) = read(tmp_path, [{'prompt': 'a', 'completion': ' b'}], None)
  assert (example['inputs'], example['targets']) == ('a', ' b')
  (example,) = read(tmp_path, [{'inputs': 'x', 'targets': 'y', 'messages': 'z', 'prompt': 'p'}], None)
  assert example['inputs'] == 'x'
  assert files.read_inputs(jsonl(tmp_path, [{'prompt': 'a'}]))[0]['inputs'] == 'a'


def test_to_predict_the_question_is_what_comes_before_the_last_answer(tmp_path, vocabulary):
  path = jsonl(tmp_path, [{'messages': TURNS}, {'messages': TURNS[:-1]}, {'messages': TURNS[:2]}])
  texts = [each['inputs'].text for each in files.read_inputs(path, vocabulary=vocabulary)]
  assert texts[0] == texts[1] != texts[2] and texts[2].endswith('good?<|im_end|>\n<|im_start|>assistant\n')


@pytest.mark.parametrize(('rows', 'given', 'message'), [
  ([{'messages': TURNS}, {'text': 'x'}], {}, r'chats.jsonl:2: there is no column .messages., which the first row has'),
  ([{'messages': TURNS}, {'messages': 'x'}], {}, r"chats.jsonl:2: column 'messages' is 'x', expected a list"),
  ([{'messages': TURNS[:-1]}], {}, r'chats.jsonl:1: the last turn is of the user'),
  ([{'messages': TURNS, 'tools': [{}]}], {}, r'chats.jsonl:1: there is a column tools'),
  ([{'messages': TURNS}], {'labels': {'a': 'b'}}, r'labels=.* cannot be used with conversations'),
  ([{'messages': TURNS}], {'vocabulary': None}, 'A conversation needs a vocabulary'),
  ([{'messages': TURNS}], {'train_on': 'first'}, 'train_on=.first. cannot be used: expected all or last'),
  ([{'inputs': 'x', 'targets': 'y'}], {'train_on': 'last'}, 'train_on=last cannot be used: .*chats.jsonl:1 is not a'),
  ([{'prompt': [USER], 'completion': 'x'}], {}, "column 'completion' is 'x', expected a list of messages")])
def test_rows_and_settings_that_cannot_be_used_are_errors(tmp_path, vocabulary, rows, given, message):
  with pytest.raises(ValueError, match=message):
    read(tmp_path, rows, **{'vocabulary': vocabulary, **given})


def test_batches_train_the_assistants_tokens_and_count_what_is_cut(tmp_path, vocabulary):
  rows = [{'messages': TURNS}, {'messages': [USER, LAST]}]
  task = files.FileTask(jsonl(tmp_path, rows), validation=0.0, vocabulary=vocabulary)
  lengths = {'inputs': 60, 'targets': 8}
  batches = TrainBatches(task, vocabulary, CausalLayout(3), lengths=lengths, batch_size=2)
  for batch in (next(batches), next(batches)):
    for targets, weights in zip(batch['decoder']['targets'], batch['decoder']['loss_weights'], strict=True):
      assert vocabulary._tokenizer.decode(targets[weights > 0].tolist(), skip_special_tokens=False) == 'Yes.<|im_end|>'
  assert batches.truncated == {'inputs': 2, 'targets': 0, 'examples': 4}
  found = eval_batches(task.split('all'), vocabulary, CausalLayout(3), batch_size=2, lengths=lengths)
  ((plain, _),), ((weighted, _),) = list(found), list(found.weighted())
  assert found.truncated['inputs'] == 1
  assert (plain['decoder']['loss_weights'] == weighted['decoder']['loss_weights']).all()
  whole = eval_batches(task.split('all'), vocabulary, CausalLayout(3), batch_size=2)
  ((plain, _),), ((weighted, _),) = list(whole), list(whole.weighted())
  assert weighted['decoder']['loss_weights'].sum() > plain['decoder']['loss_weights'].sum()  # of a score: the last turn


def test_a_target_that_is_too_long_keeps_the_end_token_of_its_turn(tmp_path):
  vocabulary = load_vocabulary(write_folder(tmp_path / 'model', eos_token='</s>'))
  vocabulary._settings['ends'] = (vocabulary.added['</s>'], 4)  # as a generation_config.json says
  task = files.FileTask(jsonl(tmp_path, [{'messages': [USER, ANSWER]}]), validation=0.0, vocabulary=vocabulary)
  found = eval_batches(task.split('all'), vocabulary, CausalLayout(), batch_size=1, lengths={'targets': 3})
  ((batch, _),) = list(found)
  targets = batch['decoder']['targets'][batch['decoder']['loss_weights'] > 0]
  assert vocabulary._tokenizer.decode(targets.tolist(), skip_special_tokens=False) == 'Yes,<|im_end|>'


def test_what_is_trained_decides_the_digest(tmp_path, vocabulary):
  path = jsonl(tmp_path, [{'messages': TURNS}])
  digests = {digest(files.FileTask(path, validation=0.0, vocabulary=vocabulary, train_on=which), 'all')
             for which in ('all', 'last', 'all')}
  assert len(digests) == 2


@pytest.mark.parametrize(('rows', 'layout', 'message'), [
  ([{'inputs': 'x', 'targets': 'y'}], CausalLayout(1, layouts.at_user), 'prompt_at=user cannot be used: .* holds rows'),
  ([{'messages': TURNS}, {'messages': [USER, LAST]}], CausalLayout(1, layouts.at_system),
   'prompt_at=system cannot be used: .*chats.jsonl:2 has no turn of the system'),
  ([{'messages': [USER, LAST]}, {'messages': TURNS}], layouts.Layout(), 'train_on=all cannot be used: .*the encoder'),
  ([{'messages': [USER, LAST]}, {'messages': TURNS}], CausalLayout(), r'chats.jsonl:2: .* still has 38 tokens')])
def test_conversations_that_a_run_cannot_use_are_found_before_it(tmp_path, vocabulary, rows, layout, message):
  task = files.FileTask(jsonl(tmp_path, rows), validation=0.0, vocabulary=vocabulary)
  lengths = {'inputs': 37 if 'tokens' in message else 60}
  with pytest.raises(ValueError, match=message):
    check_turns(task, 'train', layout, lengths)


def test_a_row_that_is_only_evaluated_needs_no_spans_of_earlier_turns(tmp_path, vocabulary):
  (example,) = read(tmp_path, [{'messages': TURNS}], vocabulary, train_on=None)
  assert example['inputs'].weights is None
  assert read(tmp_path, [{'inputs': 'x', 'targets': 'y'}], None, train_on=None)


def test_the_end_token_of_an_example_is_an_id(vocabulary):
  example = {'inputs': 'x', 'targets': 'y', 'targets_end': '</s>'}
  with pytest.raises(ValueError, match=r'targets_end=.</s>., expected a token id'):
    eval_batches([example], vocabulary, CausalLayout(), batch_size=1)
