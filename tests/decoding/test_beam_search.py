import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_decoder import EOS, ToyDecoder

from prompt_tuning import decoding


def compiled(step, **settings):
  """A beam search as one program of the cache, the key and what is named at the call."""
  return jax.jit(functools.partial(decoding.beam_search, step, end_ids=(EOS,), **settings))


def searcher(toy, batch_size, num_decodes, **settings):
  """A compiled beam search of some of a toy's rows."""
  run = compiled(toy.step, batch_size=batch_size, num_decodes=num_decodes, **settings)
  return lambda rows=slice(None), **given: jax.tree.map(np.asarray, run(toy.cache(num_decodes, rows), **given))


def expect(candidates, score, beams, length, pad=0):
  """Returns the best of candidates (log probability, tokens), best last, and their scores."""
  scored = sorted((score(log_prob, len(tokens)), tokens) for log_prob, tokens in candidates)[-beams:]
  scored = [(decoding.UNFILLED, ())] * (beams - len(scored)) + scored
  tokens = [list(tokens) + [pad] * (length - len(tokens)) for _, tokens in scored]
  return np.array(tokens), np.array([score for score, _ in scored])


@pytest.mark.parametrize('alpha', [0.0, 0.6, 2.0])
def test_beams_for_every_prefix_find_the_best_finished_sequences_of_t5x(alpha):
  beams = 54  # 27 prefixes of 3 tokens have 108 continuations, of which the best 2N count; 40 of all end in EOS
  toy = ToyDecoder(rows=2, vocabulary=4)
  tokens, scores = searcher(toy, 2, beams, max_length=4, alpha=alpha)()
  for row in range(2):
    finished = [(log_prob, found) for log_prob, found in toy.sequences(row, 4) if found[-1] == EOS]
    wanted = expect(finished, lambda log_prob, n: log_prob / ((5 + n) / 6) ** alpha, beams, 4)
    np.testing.assert_array_equal(tokens[row], wanted[0])
    np.testing.assert_allclose(scores[row], wanted[1], atol=1e-5)


@pytest.mark.parametrize('alpha', [0.0, 1.0])
@pytest.mark.parametrize('early_stopping', [True, False, 'never'])
def test_beams_for_every_prefix_find_the_best_sequences_of_transformers(alpha, early_stopping):
  toy = ToyDecoder(rows=2, vocabulary=3, seed=1)
  run = searcher(toy, 2, 16, max_length=3, alpha=alpha, penalty='transformers', early_stopping=early_stopping)
  tokens, scores = run()
  for row in range(2):
    wanted = expect(toy.sequences(row, 3), lambda log_prob, n: log_prob / n**alpha, 16, 3)  # 15 sequences, one hole
    np.testing.assert_array_equal(tokens[row], wanted[0])
    np.testing.assert_allclose(scores[row], wanted[1], atol=1e-5)


@pytest.mark.parametrize('settings', [
  {}, {'alpha': -1.0}, {'penalty': 'transformers'}, {'penalty': 'transformers', 'early_stopping': True}])
def test_a_row_gives_the_same_alone_and_in_a_batch(settings):
  toy = ToyDecoder(rows=5, vocabulary=11, seed=2)
  tokens, scores = searcher(toy, 5, 3, max_length=8, **settings)()
  run_alone = searcher(toy, 1, 3, max_length=8, **settings)
  for row in range(5):
    alone = run_alone(slice(row, row + 1))
    np.testing.assert_array_equal(alone[0][0], tokens[row])
    np.testing.assert_allclose(alone[1][0], scores[row], rtol=1e-6)


def test_scores_are_those_of_the_tokens_so_the_cache_follows_its_beam():
  toy = ToyDecoder(rows=3, vocabulary=7, seed=3)
  tokens, scores = searcher(toy, 3, 4, max_length=9, alpha=1.0, penalty='transformers')()
  for row, decode in np.ndindex(3, 4):
    found = tokens[row, decode]
    length = list(found).index(EOS) + 1 if EOS in found else 9
    np.testing.assert_allclose(scores[row, decode], toy.log_probs(row, found[:length]).mean(), rtol=1e-5)


def test_without_any_finished_sequence_t5x_gives_the_live_beams_by_log_probability():
  toy = ToyDecoder(rows=2, vocabulary=5, seed=4, eos_logit=-1e9)
  tokens, scores = searcher(toy, 2, 4, max_length=2)()
  for row in range(2):
    alive = [(log_prob, found) for log_prob, found in toy.sequences(row, 2) if EOS not in found]
    wanted = expect(alive, lambda log_prob, n: log_prob, 4, 2)
    np.testing.assert_array_equal(tokens[row], wanted[0])
    np.testing.assert_allclose(scores[row], wanted[1], rtol=1e-5)


def drawn_in_turn(probabilities, count):
  """Returns the probability of each ordered draw of `count` items without replacement."""
  found = {}
  for order in itertools.permutations(range(len(probabilities)), count):
    left, chance = 1.0, 1.0
    for each in order:
      chance *= probabilities[each] / left
      left -= probabilities[each]
    found[order] = chance
  return found


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_two_of_all_continuations_are_drawn_without_replacement(temperature):
  rows, table = 4000, np.array([0.1, 0.2, 0.3, 0.4])  # for tokens that never end
  step = lambda ids, index, cache: (jnp.log(jnp.broadcast_to(jnp.asarray(table), (*ids.shape, 4))), cache)
  search = jax.jit(functools.partial(decoding.beam_search, step, batch_size=rows, max_length=1, end_ids=(9,),
                                     temperature=temperature))
  tokens, _ = search({}, jax.random.key(3))
  counts = np.bincount(np.asarray(tokens).ravel(), minlength=4) / rows  # the more likely one of each pair of draws
  weights = table**(1 / temperature)
  wanted = np.zeros(4)
  for (first, second), chance in drawn_in_turn(weights / weights.sum(), 2).items():
    wanted[max(first, second)] += chance
  np.testing.assert_allclose(counts, wanted, atol=5 * np.sqrt(0.25 / rows))


def test_beams_are_drawn_from_the_continuations_of_all_beams_together():
  rows, first, second = 4000, np.array([0.2, 0.35, 0.45]), np.array([[0, 0, 0], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]])
  step = from_table([[first] * 3, second])
  search = jax.jit(functools.partial(decoding.beam_search, step, batch_size=rows, max_length=2, end_ids=(9,),
                                     num_decodes=2, temperature=1.0))
  tokens, _ = search({}, jax.random.key(7))
  # The first step draws all 3 tokens and keeps the more likely 1 and 2; the second draws 4 of their 6 successors.
  chances = (first[1:, None] * second[1:]).ravel()
  wanted = np.zeros(6)
  for order, chance in drawn_in_turn(chances / chances.sum(), 4).items():
    wanted[sorted(order, key=lambda each: chances[each])[-2:]] += chance
  found = np.asarray(tokens).reshape(-1, 2)
  counts = np.bincount((found[:, 0] - 1) * 3 + found[:, 1], minlength=6) / rows
  np.testing.assert_allclose(counts, wanted, atol=5 * np.sqrt(0.25 / rows))
  assert (wanted > 0.05).sum() > 2


@pytest.mark.parametrize('settings', [{}, {'penalty': 'transformers', 'alpha': 1.0}])
def test_beams_drawn_at_a_low_temperature_are_the_best(settings):
  toy = ToyDecoder(rows=4, vocabulary=7, seed=3)
  wanted = searcher(toy, 4, 3, max_length=8, **settings)()
  found = searcher(toy, 4, 3, max_length=8, temperature=1e-3, **settings)(key=jax.random.key(5))
  np.testing.assert_array_equal(found[0], wanted[0])
  np.testing.assert_allclose(found[1], wanted[1], rtol=1e-6)


def test_drawn_beams_differ_by_key_and_have_the_scores_of_their_tokens():
  toy = ToyDecoder(rows=3, vocabulary=9, seed=3)
  settings = {'max_length': 6, 'alpha': 1.0, 'penalty': 'transformers', 'temperature': 1.5}
  search = searcher(toy, 3, 4, **settings)
  found = [search(key=jax.random.key(seed)) for seed in (0, 1)]
  assert not np.array_equal(found[0][0], found[1][0])
  tokens, scores = found[0]
  for row, decode in np.ndindex(3, 4):
    sequence = tokens[row, decode]
    length = list(sequence).index(EOS) + 1 if EOS in sequence else 6
    np.testing.assert_allclose(scores[row, decode], toy.log_probs(row, sequence[:length]).mean(), rtol=1e-5)
    assert len({tuple(each) for each in tokens[row]}) == 4


def test_a_row_draws_the_same_beams_whatever_the_batch():
  toy = ToyDecoder(rows=5, vocabulary=11, seed=2)
  settings, key = {'max_length': 8, 'temperature': 3.0}, jax.random.key(4)
  tokens, scores = searcher(toy, 5, 3, **settings)(row_ids=np.arange(5) + 7, key=key)
  assert len({tuple(each) for each in tokens[:, -1]}) > 1
  search = searcher(toy, 1, 3, **settings)
  for row in range(5):
    alone = search(slice(row, row + 1), row_ids=np.array([row + 7]), key=key)
    np.testing.assert_array_equal(alone[0][0], tokens[row])
    np.testing.assert_allclose(alone[1][0], scores[row], rtol=1e-6)


def from_table(table):
  """A step that reads the next token's probabilities from table[index][token before]."""
  table = jnp.log(jnp.asarray(table, jnp.float32))
  return lambda ids, index, cache: (table[index, ids], cache)


def test_one_beam_ends_on_eos_as_the_second_best_continuation():
  step = from_table([[[0.0, 0.4, 0.6]] * 3, [[0.0, 0.1, 0.9]] * 3])
  tokens, scores = compiled(step, batch_size=1, max_length=2, alpha=0.0)({})
  assert tokens.tolist() == [[[EOS, 0]]]  # greedy decoding takes 2, 2
  np.testing.assert_allclose(scores, np.log([[0.4]]), rtol=1e-6)


def steps_taken(step, **settings):
  """Returns the number of steps that a search runs, and its tokens."""
  indices = []

  def counted(ids, index, cache):
    jax.debug.callback(lambda i: indices.append(int(i)), index)
    return step(ids, index, cache)

  tokens, _ = compiled(counted, **settings)({})
  jax.effects_barrier()
  return len(indices), tokens.tolist()


def test_the_loop_stops_when_no_live_beam_can_win():
  step = from_table([[[0.02, 0.0, 0.98]] * 3, [[0.01, 0.98, 0.01]] * 3] + [[[0.3, 0.3, 0.4]] * 3] * 18)
  steps, tokens = steps_taken(step, batch_size=2, max_length=20)
  assert steps == 2
  assert tokens == [[[2, EOS] + [0] * 18]] * 2


def test_a_row_that_is_not_active_comes_back_unfilled_and_does_not_delay_the_others():
  def step(ids, index, cache):  # row 0 ends at its second token, row 1 never
    ends = jnp.where((jnp.arange(2) == 0) & (index == 1), EOS, 2)
    return jnp.where(jnp.arange(4) == ends[:, None, None], 0.0, -50.0) + jnp.zeros((*ids.shape, 1)), cache

  for settings in ({}, {'penalty': 'transformers'}):
    shape = {'batch_size': 2, 'max_length': 20, **settings}
    assert steps_taken(step, **shape)[0] == 20
    steps, tokens = steps_taken(step, **shape, active=np.array([True, False]))
    assert steps == 2
    assert tokens == [[[2, EOS] + [0] * 18], [[0] * 20]]


def test_early_stopping_decides_when_the_search_gives_up():
  # a poor sequence finishes at once, a better one only when it is long
  step = from_table([[[0.0, 0.55, 0.45]] * 3] + [[[0.0, 0.1, 0.9]] * 3] * 6)
  found = {
    rule: steps_taken(step, batch_size=1, max_length=7, alpha=1.0, penalty='transformers', early_stopping=rule)
    for rule in (True, False, 'never')}
  ended, endless = [[[EOS] + [0] * 6]], [[[2] * 7]]
  assert found == {True: (1, ended), False: (1, ended), 'never': (7, endless)}


def test_what_follows_eos_is_the_pad_id():
  step = from_table([[[0.0, 0.9, 0.1]] * 3] * 4)
  tokens, _ = compiled(step, batch_size=1, max_length=4, pad_id=9)({})
  assert tokens.tolist() == [[[EOS, 9, 9, 9]]]


def test_the_first_step_reads_the_start_id():
  step = from_table([[[0.2, 0.0, 0.1, 0.7]] * 3 + [[0.2, 0.0, 0.7, 0.1]]])
  for start_id, wanted in ((0, 3), (3, 2)):
    tokens, _ = compiled(step, batch_size=1, max_length=1, start_id=start_id)({})
    assert tokens.tolist() == [[[wanted]]]


def test_settings_that_make_no_sense_are_errors_that_say_what_to_do():
  sizes = {'batch_size': 2, 'max_length': 3, 'end_ids': (EOS,), 'num_decodes': 4}
  toy = ToyDecoder(rows=2, vocabulary=5)
  with pytest.raises(ValueError, match=r"penalty='google' is not valid\. Use 't5x' or 'transformers'"):
    decoding.beam_search(toy.step, toy.cache(4), **sizes, penalty='google')
  for wrong in ({'temperature': -1.0, 'key': jax.random.key(0)}, {'temperature': 0.5}):
    with pytest.raises(ValueError, match=r'temperature=.* Use a temperature above 0 with a key'):
      decoding.beam_search(toy.step, toy.cache(4), **sizes, **wrong)
  with pytest.raises(ValueError, match="early_stopping='always' is not valid"):
    decoding.beam_search(toy.step, toy.cache(4), **sizes, penalty='transformers', early_stopping='always')
  with pytest.raises(ValueError, match='Leave early_stopping out'):
    decoding.beam_search(toy.step, toy.cache(4), **sizes, early_stopping=True)
  with pytest.raises(ValueError, match=r"\['state'\] of shape \(1, 2, 3, 5\)"):
    decoding.beam_search(toy.step, toy.cache(3), **sizes)
  with pytest.raises(ValueError, match=r'logits of shape \(2, 5\) for ids of shape \(2, 4\)'):
    decoding.beam_search(lambda ids, index, cache: (jnp.zeros((2, 5)), cache), toy.cache(4), **sizes)
