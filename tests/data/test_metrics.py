import sys

import numpy as np
import pytest

from prompt_tuning.data import metrics


def test_accuracy_counts_whole_texts_in_percent():
  assert metrics.accuracy(['a b', 'c', 'd', 'e'], ['a  b ', 'c', 'x', 'e f']) == {'accuracy': 50.0}


def test_sequence_match_is_exact_for_texts_and_ids():
  assert metrics.sequence_match(['a b', 'c'], ['a  b', 'c']) == {'sequence_match': 50.0}
  found = metrics.sequence_match([np.array([3, 4]), [5], [6]], [[3, 4], np.array([5]), [6, 6]])
  assert found['sequence_match'] == pytest.approx(200 / 3)


def test_token_accuracy_compares_places():
  # 2 of 3 places, 1 of 2 (an extra word), 0 of 1 (a missing word): 3 of 6.
  assert metrics.token_accuracy(['a b c', 'a', 'a'], ['a x c', 'a b', '']) == {'token_accuracy': 50.0}
  assert metrics.token_accuracy([[7, 8]], [np.array([7, 9])]) == {'token_accuracy': 50.0}


def test_f1_is_the_mean_over_the_targets_labels():
  # yes: precision 1/2, recall 1/1; no: precision 1/1, recall 1/3. 'maybe' counts only as wrong.
  targets, predictions = ['yes', 'no', 'no', 'no'], ['yes', 'yes', 'no', 'maybe']
  assert metrics.f1(targets, predictions)['f1'] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)


def test_f1_of_one_label_counts_its_precision_and_recall():
  targets, predictions = ['yes', 'no', 'no', 'no'], ['yes', 'yes', 'no', 'maybe']
  assert metrics.get('f1:yes')(targets, predictions)['f1:yes'] == pytest.approx(100 * 2 / 3)


def test_equal_texts_are_the_same_for_every_metric_of_answers():
  targets, predictions = ['not  good', 'good'], [' not good\n', 'Good']
  assert metrics.accuracy(targets, predictions)['accuracy'] == 50.0
  assert metrics.token_accuracy(targets, predictions)['token_accuracy'] == pytest.approx(100 * 2 / 3)
  assert metrics.f1(targets, predictions)['f1'] == 50.0
  assert metrics.get('f1:not good ')(targets, predictions) == {'f1:not good ': 100.0}
  assert metrics.accuracy([['a', 'b']], ['a b'])['accuracy'] == 0.0  # a list is not a text


def test_a_label_that_no_target_has_is_an_error():
  with pytest.raises(ValueError, match=r"f1:postive .* none of the 2 targets is 'postive'; found 'negative', 'positive'"
                                       r'. Did you mean positive'):
    metrics.get('f1:postive')(['positive', 'negative'], ['positive', 'positive'])
  with pytest.raises(ValueError, match=r"no metric 'f1:'"):
    metrics.get('f1:')


def test_labels_may_be_numbers_but_no_lists():
  assert metrics.get('f1:1')([1, np.int64(0), 1.0], [1, 0, 0])['f1:1'] == pytest.approx(200 / 3)
  for name in ('f1', 'f1:1'):
    with pytest.raises(ValueError, match=rf'The metric {name} compares texts or numbers, but got \[1\]'):
      metrics.get(name)([[1], 0], [1, 1])


@pytest.mark.parametrize('name', metrics.METRICS)
def test_an_example_without_target_is_an_error(name):
  with pytest.raises(ValueError, match='Example 1 has no target to compare with'):
    metrics.get(name)(['a', None], ['a', 'b'])


def test_bleu_takes_one_or_several_references():
  words = 'the cat sat on the mat today'
  assert metrics.bleu([words], [words])['bleu'] == pytest.approx(100)
  assert metrics.bleu([['no such words here', words], [words]], [words, words])['bleu'] == pytest.approx(100)
  # 1-grams 6/7, 2-grams 5/6, 3-grams 4/5, 4-grams 3/4; equal lengths, so no brevity penalty.
  changed = 'the cat sat on the mat yesterday'
  assert metrics.bleu([words], [changed])['bleu'] == pytest.approx(100 * (6 / 7 * 5 / 6 * 4 / 5 * 3 / 4) ** 0.25)


def test_sentence_bleu_is_the_mean_and_counts_only_orders_that_a_prediction_has():
  words = 'the cat sat on the mat today'
  # Three words have no 4-gram: the mean is over 3 orders; one word shorter than the reference, hence exp(1 - 4 / 3).
  found = metrics.sentence_bleu([[words, 'no'], 'a b c d'], [words, 'a b c'])['sentence_bleu']
  assert found == pytest.approx((100 + 100 * np.exp(1 - 4 / 3)) / 2)


def test_rouge_counts_shared_words_pairs_and_the_longest_common_subsequence():
  found = metrics.rouge(['a b c d'], ['a c d'])
  # Shared: 3 words of 3 and 4; 1 pair (c d) of 2 and 3; the subsequence a c d.
  assert found == pytest.approx({'rouge1': 100 * 6 / 7, 'rouge2': 100 * 2 / 5, 'rougeLsum': 100 * 6 / 7})


def test_metrics_are_found_by_name_and_a_typo_names_the_nearest():
  assert metrics.get('token_accuracy') is metrics.token_accuracy
  with pytest.raises(ValueError, match=r"no metric 'acuracy'. Did you mean accuracy"):
    metrics.get('acuracy')


@pytest.mark.parametrize('name', metrics.METRICS)
def test_unequal_numbers_of_targets_and_predictions_are_refused(name):
  with pytest.raises(ValueError, match='2 targets and 1 predictions'):
    metrics.get(name)(['a', 'b'], ['a'])


def test_a_missing_library_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'sacrebleu', None)
  with pytest.raises(ImportError, match=r"metric bleu needs sacrebleu.*pip install '\.\[metrics\]'"):
    metrics.bleu(['a'], ['a'])


@pytest.mark.parametrize('name, package', [
  ('bleu', 'sacrebleu'), ('rouge', 'rouge_score'), ('classes', 'sklearn'), ('f1:good', 'sklearn')])
def test_a_missing_library_is_found_before_anything_is_evaluated(name, package, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ImportError, match=f'metric {name} needs {package}'):
    metrics.functions([name])
