"""Generation with settings of each row, stop texts, several samples, scores, and token by token."""

import jax.numpy as jnp
import numpy as np
import pytest

from prompt_tuning.decoding.choose import choice, drawn, over_rows, static
from prompt_tuning.decoding.samplers import BeamSearch, Greedy, Sampling
from prompt_tuning.models import generation

INPUTS = [[7, 8, 9, 4], [10, 3], [12, 13, 14], [5]]
SETTINGS = {'temperature': [0.0, 0.7, 1.3, 2.0], 'topk': [0, 5, 0, 9], 'topp': [0.0, 0.9, 0.5, 0.0],
            'minp': [0.0, 0.0, 0.1, 0.2]}
SEEDS, LENGTHS = [3, 4, 5, 6], [6, 4, 6, 5]


@pytest.fixture(params=['tiny', 'causal'])
def model(request):
  return request.getfixturevalue(request.param)


def test_rows_with_settings_of_their_own_equal_each_alone_and_compile_one_program(model):
  ids = lambda answers: [each.tolist() for each in answers]
  together = ids(model.predict(INPUTS, sampler=Sampling(**SETTINGS), seed=SEEDS, max_length=LENGTHS))
  again = lambda rows: ids(model.predict(
    [INPUTS[b] for b in rows], seed=[SEEDS[b] for b in rows], max_length=[LENGTHS[b] for b in rows],
    sampler=Sampling(**{name: [values[b] for b in rows] for name, values in SETTINGS.items()})))
  programs = generation.start._cache_size(), generation.proceed._cache_size()
  assert again([3, 1, 0, 2]) == [together[b] for b in (3, 1, 0, 2)]
  assert (generation.start._cache_size(), generation.proceed._cache_size()) == programs
  for b in range(4):
    assert again([b]) == [together[b]]
  assert together[0] == model.predict(INPUTS[:1], max_length=6)[0].tolist()
  assert all(len(answer) <= length for answer, length in zip(together, LENGTHS, strict=True))


def test_an_answer_ends_before_the_first_of_its_stop_texts(model):
  inputs = ['7 8 9 4', '10 3']
  texts = model.predict(inputs, max_length=20, sampler=Sampling(), seed=[1, 2])
  tokens = texts[0].split()
  stop = f'{tokens[2][-1]} {tokens[3][0]}'  # begins within a token, ends within another
  found = model.predict(inputs, max_length=20, sampler=Sampling(), seed=[1, 2], stop=[[stop], []], return_scores=True)
  assert found[0].ended == 'stop' and found[0].text == texts[0][:texts[0].index(stop)]
  assert len(found[0].ids) == len(found[0].log_probs) == len(texts[0][:texts[0].index(stop) + len(stop)].split())
  assert found[1].text == texts[1] and found[1].ended in ('end', 'length')


def test_scores_are_those_of_the_model_whatever_the_tokens_were_drawn_from(model):
  found = model.predict(INPUTS, sampler=Sampling(temperature=2.0, topk=7), seed=5, max_length=5, return_scores=True,
                        top=3)
  for each, wanted in zip(found, model.score(INPUTS, [each.ids.tolist() for each in found], per_token=True, top=3),
                          strict=True):
    np.testing.assert_allclose(each.log_probs, wanted.log_probs, atol=1e-5)
    np.testing.assert_allclose(each.top_log_probs, wanted.top_log_probs, atol=1e-5)
    assert each.ended == ('end' if each.ids[-1] == 1 else 'length')


def test_answers_grow_token_by_token(model):
  wanted = model.predict(INPUTS, sampler=Sampling(), seed=SEEDS, max_length=5, return_scores=True)
  answers = model.prefill(INPUTS, sampler=Sampling(), seed=SEEDS, max_length=5)
  grown = [[] for _ in INPUTS]
  while not answers.ended.all():
    before = answers.ended[:, 0]
    for row, token, ended in zip(grown, answers.step()[:, 0], before, strict=True):
      row += [] if ended else [int(token)]
  assert grown == [each.ids.tolist() for each in wanted]


def test_several_samples_differ_and_the_likeliest_comes_first(causal):
  found = causal.predict(INPUTS[:2], sampler=Sampling(), n=4, max_length=5)
  assert [len(each) for each in found] == [4, 4] and len({tuple(each) for each in found[0]}) > 1
  beams = causal.predict(INPUTS[:2], sampler=BeamSearch(num_decodes=4), n=2, max_length=5)
  assert [len(each) for each in beams] == [2, 2]
  assert beams[0][0].tolist() == causal.predict(INPUTS[:1], sampler=BeamSearch(num_decodes=4), max_length=5)[0].tolist()


@choice
class Banned:
  """A user's own: never draws one token, another one for each row."""

  token: int = 0
  num_decodes: int = static(1)

  def __call__(self, logits, keys):
    return drawn(jnp.where(jnp.arange(logits.shape[-1]) == over_rows(self.token, logits), -1e9, logits), keys)


def test_a_user_adds_a_way_to_choose(causal):
  greedy = [int(ids[0]) for ids in causal.predict(INPUTS, max_length=2)]
  found = causal.predict(INPUTS, sampler=Banned(greedy), seed=list(range(4)), max_length=20)
  assert all(token not in ids for token, ids in zip(greedy, found, strict=True))


@pytest.mark.parametrize(('given', 'said'), [
  ({'stop': 'x'}, 'list of texts'), ({'stop': ['']}, 'at least one character'), ({'seed': [1]}, '1 values'),
  ({'max_length': [1, 2, 3, 0]}, 'max_length=0'), ({'sampler': Sampling([1.0, 2.0])}, '2 values for 4 inputs'),
  ({'sampler': Greedy}, 'sampler='), ({'n': 2}, 'n=2'), ({'top': 99, 'return_scores': True}, 'top=99'),
  ({'sampler': BeamSearch(), 'stop': ['x']}, 'stop='), ({'sampler': BeamSearch(), 'return_scores': True}, 'return_sc')])
def test_what_cannot_be_asked_for_is_said(causal, given, said):
  with pytest.raises(ValueError, match=said):
    causal.predict(INPUTS, **given)


@pytest.mark.parametrize('field', [{'temperature': -1.0}, {'topp': 2.0}, {'minp': [0.1, float('nan')]}, {'topk': 1.5}])
def test_fields_of_sampling_are_checked(field):
  with pytest.raises(ValueError, match=next(iter(field))):
    Sampling(**field)
