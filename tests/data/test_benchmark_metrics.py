import pytest

from prompt_tuning.data import benchmark_metrics, text_to_text

pytest.importorskip('sklearn')
pytest.importorskip('scipy')

YES_NO = ('no', 'yes')


def labels(*indices):
  return [{'label': label, 'group': group} for label, group in indices]


def test_matthews_is_the_correlation_of_labels():
  # True positives 2, true negatives 1, false positives 1, false negatives 1.
  found = benchmark_metrics.matthews([1, 1, 1, 0, 0], [1, 1, 0, 0, 1])['matthews_corrcoef']
  assert found == pytest.approx(100 * (2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5)
  assert benchmark_metrics.matthews([1, 0], [0, 1]) == {'matthews_corrcoef': -100.0}


@pytest.mark.parametrize(('targets', 'predictions'), [([1, 0], [1, 1]), ([1, 1], [1, 1]), ([1, 0], [-1, -1])])
def test_matthews_without_a_denominator_is_0(targets, predictions):
  assert benchmark_metrics.matthews(targets, predictions) == {'matthews_corrcoef': 0.0}


def test_binary_f1_counts_an_answer_that_is_no_label_as_the_wrong_label():
  # -1 for a 0 is a false positive, for a 1 a false negative: 1 of each, and 1 true positive.
  assert benchmark_metrics.binary_f1([1, 0, 1, 0], [1, -1, -1, 0]) == {'f1': pytest.approx(50.0)}


def test_the_f1_of_three_classes_is_their_mean():
  # Label 0: precision 1/1, recall 1/2; label 1: 1/2, 1/1; label 2: nothing right.
  found = benchmark_metrics.mean_3class_f1([0, 0, 1, 2], [0, 1, 1, -1])
  assert found == {'mean_3class_f1': pytest.approx(100 * (2 / 3 + 2 / 3 + 0) / 3)}


def test_correlations_are_of_scores_and_of_ranks():
  found = benchmark_metrics.correlations([0.0, 1.0, 2.0], [0.0, 1.0, 5.0])
  # Deviations -1, 0, 1 and -2, -1, 3: product 5, squares 2 and 14.
  assert found == {'pearson_corrcoef': pytest.approx(500 / 28**0.5), 'spearman_corrcoef': pytest.approx(100.0)}
  assert benchmark_metrics.correlations([0.0, 1.0], [2.0, 2.0]) == {'pearson_corrcoef': 0.0, 'spearman_corrcoef': 0.0}
  assert benchmark_metrics.correlations([1.0], [1.0]) == {'pearson_corrcoef': 0.0, 'spearman_corrcoef': 0.0}


def test_multirc_counts_answers_and_whole_questions():
  targets = labels((1, 'a'), (0, 'a'), (1, 'b'), (1, 'b'))
  # One of two questions fully right; 2 true positives, 1 false negative.
  found = benchmark_metrics.multirc(targets, labels((1, 'a'), (0, 'a'), (1, 'b'), (-1, 'b')))
  assert found == {'f1': pytest.approx(80.0), 'exact_match': 50.0}


def test_record_takes_the_best_answer_and_counts_a_query_once():
  targets = [{'answers': ['Ann Lee', 'Lee'], 'group': 'a'}] * 2 + [{'answers': ['The New York Times'], 'group': 'b'}]
  # 'times' against 'new york times': precision 1, recall 1/3.
  found = benchmark_metrics.record(targets, ['lee.', 'lee.', 'a Times'])
  assert found == {'em': 50.0, 'f1': pytest.approx(75.0)}
  assert benchmark_metrics.record([{'answers': [], 'group': 'a'}], ['x']) == {'em': 0.0, 'f1': 0.0}


def test_a_text_is_the_label_it_says_or_none():
  assert [text_to_text.label_index(text, labels=YES_NO) for text in (' yes\n', 'no', 'Yes', 'yes!', '')] == [
    1, 0, -1, -1, -1]


def test_a_target_without_label_is_equal_to_no_answer():
  assert text_to_text.label_index('<unk>', {}, True, labels=YES_NO) == -2


@pytest.mark.parametrize(('text', 'number'), [('3.2', 3.2), (' 4 ', 4.0), ('high', -1.0), ('nan', -1.0), ('', -1.0)])
def test_a_score_is_a_number_or_minus_1(text, number):
  assert text_to_text.score(text) == number


@pytest.mark.parametrize(('text', 'noun', 'same'), [
  ('stable', 'The stable', 1),
  ('the large stable', 'the stable.', 1),
  ('Ann', 'Ann Lee', 1),
  ('Bob', 'Ann Lee', 0),
  ("Ann's sister", 'sister', 0),
  ('the', 'the stable', 0),
  ('', 'stable', 0),
  ('a stable yard', 'a stable window', 0),
])
def test_a_predicted_noun_is_the_same_where_the_words_of_one_hold_the_others(text, noun, same):
  assert text_to_text.same_referent(text, {'noun': noun, 'label': 0}) == same


def test_metrics_want_as_many_predictions_as_targets():
  for metric in (benchmark_metrics.matthews, benchmark_metrics.binary_f1, benchmark_metrics.mean_3class_f1,
                 benchmark_metrics.correlations, benchmark_metrics.multirc, benchmark_metrics.record):
    with pytest.raises(ValueError, match='2 targets and 1 predictions'):
      metric([1, 0], [1])
