"""The scores of target tokens are those of all logits, for an encoder-decoder and a decoder-only model."""

import jax
import numpy as np
import pytest

INPUTS = [[7, 8, 9, 4], [10, 3], [12, 13, 14]]
TARGETS = [[5, 6, 1], [11, 1], [16, 17, 18, 1]]


@pytest.fixture(params=['tiny', 'causal'])
def model(request):
  return request.getfixturevalue(request.param)


def test_token_scores_are_the_log_softmax_of_the_logits(model):
  prompt = np.random.default_rng(0).normal(size=(2, model.width)).astype(np.float32)
  logits = jax.nn.log_softmax(model.logits(INPUTS, TARGETS, prompt))
  for row, (found, target) in enumerate(zip(
    model.score(INPUTS, TARGETS, prompt, per_token=True, top=3), TARGETS, strict=True)):
    wanted = np.asarray(logits[row, :len(target)])
    assert found.ids.tolist() == target
    np.testing.assert_allclose(found.log_probs, wanted[range(len(target)), target], atol=1e-5)
    order = np.argsort(-wanted, axis=1)[:, :3]
    np.testing.assert_array_equal(found.top_ids, order)
    np.testing.assert_allclose(found.top_log_probs, np.take_along_axis(wanted, order, 1), atol=1e-5)
  np.testing.assert_allclose([each.total for each in model.score(INPUTS, TARGETS, prompt, per_token=True)],
                             model.score(INPUTS, TARGETS, prompt), rtol=1e-5)


def test_a_target_is_greedy_if_greedy_decoding_generates_it(model):
  answers = model.predict(INPUTS, max_length=4)
  assert all(each.is_greedy for each in model.score(INPUTS, answers, per_token=True))
  others = [[(ids[0] + 1) % 29, *ids[1:]] for ids in map(list, answers)]
  assert not any(each.is_greedy for each in model.score(INPUTS, others, per_token=True))


def test_continuations_have_no_end_token(model):
  with_end, without = (model.score(['7 8'], ['5 6'], per_token=True, end_token=ends)[0] for ends in (True, False))
  assert with_end.ids.tolist() == [5, 6, 1] and without.ids.tolist() == [5, 6]
  np.testing.assert_allclose(with_end.log_probs[:2], without.log_probs, atol=1e-5)


def test_the_token_that_nothing_precedes_has_no_score(causal):
  [found] = causal.score(None, [[5, 6, 7]], per_token=True)
  assert found.ids.tolist() == [6, 7]


@pytest.mark.parametrize(('given', 'said'), [
  ({'top': 0, 'per_token': True}, 'top=0'), ({'top': 30, 'per_token': True}, 'top=30'), ({'top': 2}, 'per_token=True')])
def test_wrong_settings_are_said(model, given, said):
  with pytest.raises(ValueError, match=said):
    model.score(INPUTS, TARGETS, **given)
