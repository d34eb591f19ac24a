"""The metrics of SQuAD: exact match and F1 of answers, each the best over the accepted answers.

Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (arXiv:1606.05250), section 6.1;
the MRQA 2019 shared task (Fisch et al. 2019, arXiv:1910.09753) uses the same metrics.
"""

import collections
import re
import string
from collections.abc import Sequence

from prompt_tuning.data import metrics

_PUNCTUATION = str.maketrans('', '', string.punctuation)
_ARTICLES = re.compile(r'\b(a|an|the)\b')


def squad(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
  """Returns exact match and F1 in percent.

  Args:
    targets: for each question its accepted answers, at least one; a text is a single answer.
    predictions: one text for each question.

  Returns:
    'em': the share of predictions that equal an accepted answer after normalisation.
    'f1': the mean word F1 of prediction and answer, the best over the accepted answers.

  Raises:
    ValueError: the numbers of targets and predictions differ or are 0, or a question has no answer.
  """
  matches, overlaps = [], []
  for number, (answers, prediction) in enumerate(metrics.pairs(targets, predictions)):
    answers = [answers] if isinstance(answers, str) else list(answers)
    if not answers:
      raise ValueError(f'Question {number} has no accepted answer, expected at least one. Leave out questions '
                       'without an answer.')
    matches.append(max(normalize(answer) == normalize(prediction) for answer in answers))
    overlaps.append(max(word_f1(answer, prediction) for answer in answers))
  return {'em': metrics.mean(matches), 'f1': metrics.mean(overlaps)}


def word_f1(answer: str, prediction: str) -> float:
  """Returns the word F1 of two normalised texts, from 0 to 1; repeated words count as often as both texts have them."""
  wanted, found = normalize(answer).split(), normalize(prediction).split()
  common = sum((collections.Counter(wanted) & collections.Counter(found)).values())
  if common == 0:
    return 0.0
  precision, recall = common / len(found), common / len(wanted)
  return 2 * precision * recall / (precision + recall)


def normalize(text: str) -> str:
  """Returns a text in lower case without punctuation and articles, its words separated by single spaces."""
  return ' '.join(_ARTICLES.sub(' ', text.lower().translate(_PUNCTUATION)).split())
