"""Ensembles: a batch of one equals the mean of separate runs, for all kinds of members, scores and samplers."""

import dataclasses

import numpy as np
import pytest

import prompt_tuning as pt
from prompt_tuning.evaluation.saved import SavedPrompt, Trained
from prompt_tuning.models.ensembles import ranked
from prompt_tuning.rows import layouts
from prompt_tuning.rows.conditioning import Visibility
from prompt_tuning.serving.prompts import Prompts

INPUTS, TARGETS = ['5 6 7 8', '9', '3 4'], ['6 7', '8 9 10', '5']


def members(model):
  """Returns prompts, a prefix and the model alone: of several lengths, so that no two rows of an input are alike."""
  random = np.random.default_rng(0)
  draw = lambda *shape: random.normal(size=shape).astype(np.float32)
  layers, heads, width = model.prefix_shapes()[model.prompted]
  prefix = Trained({f'{model.prompted}/prefix/{name}': draw(layers, 4, heads, width) for name in ('keys', 'values')})
  path = f'{model.prompted}/prompt/prompt/prompt'
  return [draw(3, 12), SavedPrompt(2 * draw(5, 12), layouts.after_eos, path=path), prefix, None]


@pytest.fixture(params=['tiny', 'causal'])
def model(request):
  return request.getfixturevalue(request.param)


def log_mean(rows):
  """Returns the log of the mean of probabilities, given their logs [M, ...]."""
  return np.log(np.mean(np.exp(np.asarray(rows, np.float64)), axis=0))


def log_softmax(logits):
  return logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))


def test_scores_and_logits_are_the_mean_of_separate_runs(model):
  each = members(model)
  ensemble = pt.Ensemble(each)
  alone = [model.score(INPUTS, TARGETS, member, per_token=True, top=2) for member in each]
  found = model.score(INPUTS, TARGETS, ensemble, per_token=True, top=2)
  logits = log_mean([log_softmax(model.logits(INPUTS, TARGETS, member)) for member in each])
  own = model.logits(INPUTS, TARGETS, ensemble)
  for b in range(3):
    wanted = log_mean([scores[b].log_probs for scores in alone])
    np.testing.assert_allclose(found[b].log_probs, wanted, atol=1e-6)
    np.testing.assert_allclose(own[b, :len(wanted)], logits[b, :len(wanted)], atol=2e-6)
    best = np.argsort(-logits[b, :len(wanted)], axis=-1)[:, :2]
    np.testing.assert_array_equal(found[b].top_ids, best)
  np.testing.assert_allclose(model.score(INPUTS, TARGETS, ensemble), [scores.total for scores in found], atol=1e-6)


@pytest.mark.parametrize('sampler', [pt.Greedy(), pt.Sampling(temperature=1.5)], ids=['greedy', 'sampling'])
def test_each_token_is_chosen_by_the_mean_of_the_members_probabilities(model, sampler):
  each = members(model)[:4 if sampler == pt.Greedy() else 2]  # fewer compile faster
  ensemble = pt.Ensemble(each)
  made = model.predict(INPUTS, ensemble, sampler=sampler, max_length=5, seed=3, return_scores=True, top=2)
  alone = [model.score(INPUTS, [one.ids for one in made], member, per_token=True) for member in each]
  for b, one in enumerate(made):
    wanted = log_mean([scores[b].log_probs for scores in alone])
    np.testing.assert_allclose(one.log_probs, wanted, atol=1e-6)
    if sampler == pt.Greedy():
      np.testing.assert_array_equal(one.ids, one.top_ids[:, 0])
  # Neither the batch nor what grows step by step changes an answer; the noise is that of the input's number.
  again = model.predict(INPUTS, ensemble, sampler=sampler, max_length=5, seed=3, batch_size=2)
  assert again == [one.text for one in made]
  growing = model.prefill(INPUTS, ensemble, sampler=sampler, max_length=5, seed=3)
  growing.step()
  assert growing.ids.shape == (3, 1) and growing.finish().ended.all()
  assert [found[-1].text for found in growing.predictions()] == again


def test_an_ensemble_of_one_prompt_is_that_prompt(causal):
  prompt = members(causal)[0]
  for sampler in (pt.Sampling(num_decodes=2), pt.BeamSearch(num_decodes=3)):
    alone = causal.predict(INPUTS, prompt, sampler=sampler, max_length=[4, 2, 5][:3] if sampler.num_decodes == 2 else 5)
    both = pt.Ensemble([prompt, prompt])
    assert causal.predict(INPUTS, both, sampler=sampler, max_length=[4, 2, 5] if sampler.num_decodes == 2 else 5
                          ) == alone
  stopped = causal.predict(INPUTS, pt.Ensemble([prompt] * 3), stop=[' '], max_length=6)
  assert stopped == causal.predict(INPUTS, prompt, stop=[' '], max_length=6)


def test_a_vote_is_the_answer_of_most_members(model):
  first = members(model)[0]
  each = [first, 3 * first, first[::-1], 3 * first]
  answers = [model.predict(INPUTS, member, max_length=3) for member in each]
  found = model.predict(INPUTS, pt.Ensemble(each, kind='vote'), max_length=3)
  assert found == [ranked([answer[b] for answer in answers], str)[0] for b in range(3)]
  assert ranked(['b', 'a', 'c', 'a', 'c'], str) == ['a', 'c', 'b']
  ids = model.predict([[5, 6], [9], [3, 4]], pt.Ensemble(each[:1], kind='vote'), max_length=3)
  np.testing.assert_array_equal(ids[0], model.predict([[5, 6], [9], [3, 4]], first, max_length=3)[0])


def test_a_read_context_is_shared_by_the_members(causal):
  each = members(causal)[:2]
  contexts = causal.read(['7 8', '9', '3'])
  found = causal.score(INPUTS, TARGETS, pt.Ensemble(each), context=contexts, per_token=True)
  alone = [causal.score(INPUTS, TARGETS, member, context=contexts, per_token=True) for member in each]
  for b in range(3):
    np.testing.assert_allclose(found[b].log_probs, log_mean([scores[b].log_probs for scores in alone]), atol=1e-6)


def test_what_an_ensemble_cannot_do_is_said(causal):
  prompt = members(causal)[0]
  vote, mean = pt.Ensemble([prompt, None], kind='vote'), pt.Ensemble([prompt, None])
  blind = SavedPrompt(prompt, visibility=Visibility(input=False, prompt=False), path='decoder/prompt/prompt/prompt')
  update = Trained({'decoder/layers_0/mlp/wo/kernel': np.zeros((14, 12), np.float32)})
  for call, message in (
      (lambda: pt.Ensemble([]), 'The members of an ensemble are none. Give a list'),
      (lambda: pt.Ensemble([mean]), 'are an ensemble among them'),
      (lambda: pt.Ensemble('runs/a'), "members='runs/a' cannot be used: expected a list of prompts"),
      (lambda: pt.Ensemble([prompt], kind='median'), "kind='median' cannot be used: expected mean or vote"),
      (lambda: causal.predict(INPUTS, pt.Ensemble([None, prompt[:, 1:]])), r'members\[1\] .* has shape \(3, 11\)'),
      (lambda: causal.predict(INPUTS, [mean, None, None]), 'An ensemble cannot be used here'),
      (lambda: causal.predict(INPUTS, pt.Ensemble([update, None])), "and such an ensemble with kind='vote'"),
      (lambda: causal.predict(INPUTS, pt.Ensemble([prompt, blind])), "and such an ensemble with kind='vote'"),
      (lambda: causal.score(INPUTS, TARGETS, vote), "kind='vote' cannot be used for scores"),
      (lambda: causal.prefill(INPUTS, vote), "kind='vote' cannot be used for prefill"),
      (lambda: Prompts(causal, memory=1 << 20).load('both', mean), 'An ensemble cannot be used here'),  # the engine's
      (lambda: pt.nearest_words(causal, mean), 'An ensemble cannot be used here')):
    with pytest.raises(ValueError, match=message):
      call()
  assert len(causal.predict(INPUTS, dataclasses.replace(pt.Ensemble([update, None]), kind='vote'), max_length=2)) == 3
