"""Ranked classification compared with separate scores of each input and word."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.data.class_metrics import ece
from prompt_tuning.data.metrics import sequence_match
from prompt_tuning.data.pipeline import eval_batches
from prompt_tuning.data.tasks import Task
from prompt_tuning.decoding.samplers import Greedy
from prompt_tuning.evaluation.evaluate import evaluate
from prompt_tuning.evaluation.predictions import infer
from prompt_tuning.evaluation.ranking import Ranked, rank
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.rows.conditioning import Conditioning, StackConditioning
from prompt_tuning.rows.layouts import after_eos

WORDS = ('5 6 7', '4', '12 3', '5 6')  # one to three tokens each; two share a first token
INPUTS = ('7 8 9', '3', '10 11 4 5', '8 2', '17')


@pytest.fixture(params=['tiny', 'causal'])
def model(request):
  return request.getfixturevalue(request.param)


def scores(model, ranked, prompt=None, **columns):
  trained = SavedPrompt(prompt, after_eos).as_trained() if prompt is not None else None
  layout = model.layout(trained.layout()) if trained else model.layout()
  given = Conditioning()
  if trained:
    given = Conditioning(**{model.prompted: StackConditioning(prompt=jnp.asarray(prompt)[None])})
  batches = eval_batches([{'inputs': text} | columns for text in INPUTS], model.vocabulary, layout, batch_size=2)
  return np.array(list(rank(model, given, batches, ranked)))


@pytest.mark.parametrize('prompted', [False, True])
def test_a_words_sum_is_its_score_alone_and_its_mean_is_that_for_each_token(model, prompted):
  prompt = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32) if prompted else None
  used = None if prompt is None else SavedPrompt(prompt, after_eos)
  wanted = np.array([model.score(list(INPUTS), [word] * 5, used) for word in WORDS]).T
  np.testing.assert_allclose(scores(model, Ranked(WORDS), prompt), wanted, rtol=1e-5)
  tokens = [len(word.split()) + 1 for word in WORDS]  # and the end token
  np.testing.assert_allclose(scores(model, Ranked(WORDS, 'mean'), prompt), wanted / tokens, rtol=1e-5)


def test_words_have_no_end_token_where_the_tasks_targets_have_none(causal):
  ids = [[int(i) for i in word.split()] for word in WORDS]
  wanted = np.array([causal.score(list(INPUTS), [each] * 5) for each in ids]).T
  np.testing.assert_allclose(scores(causal, Ranked(WORDS), targets_ends=False), wanted, rtol=1e-5)


def judged(model, targets, **settings):
  examples = [{'inputs': i, 'targets': t} for i, t in zip(INPUTS, targets, strict=True)]
  task = Task('words', {'validation': examples}, (sequence_match,))
  return evaluate(model, Conditioning(), model.layout(), task, sampler=Greedy(), batch_size=2, **settings)


def test_an_evaluation_takes_the_likeliest_word_and_counts_how_often_it_is_right(model):
  alone = np.array([model.score(list(INPUTS), [word] * 5) for word in WORDS]).T
  best = [WORDS[i] for i in alone.argmax(1)]
  targets = [*best[:3], *(next(word for word in WORDS if word != wrong) for wrong in best[3:])]
  found = judged(model, targets, ranked=Ranked(WORDS))
  assert [line['output'] for line in found.lines] == best
  assert found.metrics == {'accuracy': 60.0, 'sequence_match': 60.0}
  np.testing.assert_allclose(list(found.lines[1]['scores'].values()), alone[1], rtol=1e-5)
  assert list(found.lines[1]['scores']) == list(WORDS)


def test_the_sum_prefers_short_words_and_the_mean_does_not(causal):
  # All logits are equal, so every token costs log V: by sum the shorter word wins, by mean the words tie.
  even = dataclasses.replace(causal, params=jax.tree.map(jnp.zeros_like, causal.params))
  words = Ranked(('5 6 7', '4'))
  np.testing.assert_allclose(scores(even, words), -np.log(29) * np.array([[4, 2]] * 5), rtol=1e-6)
  np.testing.assert_allclose(scores(even, dataclasses.replace(words, score='mean')), -np.log(29), rtol=1e-6)


def test_what_cannot_be_ranked_is_a_clear_error(tiny):
  with pytest.raises(ValueError, match=r"The target '9' is not among the words to rank, '4', '12 3'.* Give all"):
    judged(tiny, ['4', '9', '4', '4', '4'], ranked=Ranked(['4', '12 3']))
  for words in (['4'], ['4', '4'], []):
    with pytest.raises(ValueError, match=r'The words to rank are .*. Give at least two different ones'):
      Ranked(words)
  with pytest.raises(ValueError, match=r"score='max'. Use sum or mean"):
    Ranked(['4', '5'], 'max')
  with pytest.raises(ValueError, match=r"'4 5' and '4  5' have the same tokens, \[4, 5, 1\]"):
    scores(tiny, Ranked(['4 5', '4  5']))
  with pytest.raises(ValueError, match=r"The word '' has no tokens in the vocabulary"):
    scores(tiny, Ranked(['4 5', '']))


def test_predictions_of_ranked_words_have_scores_and_a_confidence(model):
  lines = list(infer(model, Trained({}), [{'inputs': text} for text in INPUTS], sampler=Greedy(), batch_size=2,
                     ranked=Ranked(WORDS)))
  expected = scores(model, Ranked(WORDS))
  np.testing.assert_allclose([[*line['scores'].values()] for line in lines], expected, rtol=1e-6)
  assert [line['prediction'] for line in lines] == [WORDS[i] for i in expected.argmax(1)]
  shares = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
  np.testing.assert_allclose([line['confidence'] for line in lines], shares.max(1), rtol=1e-5)


def test_the_calibration_of_generated_texts_uses_their_probability(causal):
  model = causal
  task = Task('words', {'validation': [{'inputs': text, 'targets': '4'} for text in INPUTS]}, (ece,))
  found = evaluate(model, Conditioning(), model.layout(), task, sampler=Greedy(), batch_size=2, max_length=3)
  expected = np.exp(model.score(list(INPUTS), [line['output'] for line in found.lines]))
  np.testing.assert_allclose([line['confidence'] for line in found.lines], expected, rtol=1e-5)
  assert set(found.metrics) == {'ece'}
