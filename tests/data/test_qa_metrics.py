import pytest

from prompt_tuning.data import qa_metrics


@pytest.mark.parametrize('answers, prediction, em, f1', [
  (['a cat'], 'the Cat!', 100, 100),  # articles, case and punctuation do not count
  (['Denver Broncos'], 'Broncos', 0, 100 * 2 / 3),  # precision 1, recall 1/2
  (['Denver Broncos', 'Broncos'], 'The  Broncos.', 100, 100),  # the best answer counts
  (['in 1998', 'the year 2001'], 'year 1998', 0, 50),  # one of two words, for any answer
  (['to be or not to be'], 'be be be', 0, 100 * 2 * 2 / (3 + 6)),  # a word counts as often as both texts have it
  (["patient ' s lungs"], "patient's lungs", 0, 40),  # `patient s lungs` and `patients lungs` share one word
  (['theatre'], 'tre', 0, 0),  # articles are whole words
  (['42'], '', 0, 0),
  (['the'], 'a', 100, 0),  # both are empty: they match but share no word, as in the official script
], ids=str)
def test_answers_score_as_the_official_script_scores_them(answers, prediction, em, f1):
  assert qa_metrics.squad([answers], [prediction]) == {'em': em, 'f1': pytest.approx(f1)}


def test_scores_are_the_mean_over_the_questions():
  found = qa_metrics.squad([['x y z'], 'red', ['blue']], ['y', 'green', 'Blue'])
  assert found == {'em': pytest.approx(100 / 3), 'f1': pytest.approx((50 + 0 + 100) / 3)}


@pytest.mark.parametrize('targets, predictions, message', [
  ([['x']], [], '1 targets and 0 predictions'), ([], [], '0 targets and 0'),
  ([['x'], []], ['x', 'y'], 'Question 1 has no')])
def test_what_cannot_be_scored_is_refused(targets, predictions, message):
  with pytest.raises(ValueError, match=message):
    qa_metrics.squad(targets, predictions)
