"""Targets that no answer can equal are counted before training, or refused if they are most."""

import re

import pytest

from prompt_tuning.data import metrics
from prompt_tuning.data.target_checks import check_targets, require_labels
from prompt_tuning.data.tasks import Task
from prompt_tuning.rows.layouts import CausalLayout, Layout

LENGTHS = {'inputs': 20, 'targets': 6}


class Letters:
  """Letters as ids; it has no braces, reads line feeds as blanks, and '$' ends a text."""

  eos_id, end_ids = ord('$'), (ord('$'),)

  def encode(self, text):
    return [ord(letter) for letter in text.replace('\n', ' ') if letter not in '{}']

  def decode(self, ids):
    return ''.join(map(chr, ids)).partition('$')[0]


def checked(targets, *, layout=Layout(), inputs='x ', judged=True, refuse=True):
  rows = [{'inputs': inputs, 'targets': target} for target in targets]
  task = Task('toy', {'train': rows}, (metrics.accuracy,) if judged else ())
  return check_targets(task, 'train', Letters(), layout, LENGTHS, refuse=refuse)


def test_targets_that_can_be_given_back_are_not_named():
  assert checked(['yes', 'no']) == []


@pytest.mark.parametrize(('target', 'message'), [
  ('{a}', "1 of 3 targets of toy cannot be given back by the vocabulary, such as '{a}', which comes back as 'a'"),
  ('  ', '1 of 3 targets of toy are empty: nothing but the end of a text is learnt from them'),
  ('no$', "1 of 3 targets of toy already hold the end token, such as 'no$'"),
  ('abcdef', "1 of 3 targets of toy are longer than max_target_length= allows and are cut, such as 'abcdef' of 7 "),
  ('a\nb', r"1 of 3 targets of toy have white space that the vocabulary changes, such as 'a\nb'"),
])
def test_each_kind_is_counted_with_an_example_and_refused_if_it_is_most(target, message):
  (warning,) = checked([target, 'yes', 'no'])
  assert warning.startswith(message)
  if '\n' not in target:
    with pytest.raises(ValueError, match=re.escape(message.replace('1 of 3', '2 of 3'))):
      checked([target, target, 'no'])
  assert len(checked([target, target, 'no'], judged=False)) == 1
  assert len(checked([target, target, 'no'], refuse=False)) == 1


@pytest.mark.parametrize(('inputs', 'target', 'found'), [
  ('Sentiment:', 'good', ["'Sentiment:good'"]), ('Sentiment:', ' good', []), ('Sentiment: ', 'good', [])])
def test_a_target_that_follows_its_input_without_a_blank_is_counted_where_both_are_one_text(inputs, target, found):
  warnings = checked([target], layout=CausalLayout(), inputs=inputs)
  assert [re.search(r"such as ('.*?')\.", each)[1] for each in warnings] == found
  assert checked([target], inputs=inputs) == []


def test_inputs_that_are_cut_are_a_warning_if_they_are_most():
  (warning,) = checked(['yes', 'no'], inputs='x' * 20)
  assert warning.startswith('2 of the first 2 inputs of toy are cut: they have up to 21 tokens, but max_input_len')
  assert checked(['yes', 'no'], inputs='x' * 19) == []


@pytest.mark.parametrize(('inputs', 'target'), [([3, 99], 'A'), ('A', [3, 99])])
def test_token_ids_without_a_row_of_the_embedding_are_an_error(inputs, target):
  task = Task('toy', {'train': [{'inputs': inputs, 'targets': target}]})
  with pytest.raises(ValueError, match=r'holds the token id 99, but the embedding of the model has 99 rows'):
    check_targets(task, 'train', Letters(), Layout(vocab_size=99), LENGTHS)


def test_the_label_of_a_metric_must_be_among_the_targets_that_are_evaluated():
  task = Task('toy', {'validation': [{'inputs': 'x', 'targets': target} for target in ('no', 'no', 'yes')]},
              (metrics.get('f1:yes'),))
  require_labels(task, 'validation', None)
  with pytest.raises(ValueError, match="f1:yes cannot be computed: none of the 2 targets is 'yes'; found 'no'"):
    require_labels(task, 'validation', 2)
