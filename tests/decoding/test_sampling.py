import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_decoder import EOS, ToyDecoder

from prompt_tuning import decoding
from prompt_tuning.decoding.choose import first_of_largest, keep_topk, keep_topp


def sample(toy, *, num_decodes=1, **settings):
  """Samples of 8 tokens for all of a toy's rows, as NumPy arrays."""
  run = functools.partial(
    decoding.temperature_sample, toy.step, batch_size=len(toy.start), max_length=8, end_ids=(EOS,),
    num_decodes=num_decodes, **settings)
  return jax.tree.map(np.asarray, jax.jit(run)(toy.cache(num_decodes), jax.random.key(0)))


def compiled(decode, step, **settings):
  """Returns a decoder as one program of the cache, the key and the like."""
  return jax.jit(functools.partial(decode, step, **settings))


def length_of(tokens):
  return list(tokens).index(EOS) + 1 if EOS in tokens else len(tokens)


def test_greedy_takes_the_likeliest_token_at_every_step():
  toy = ToyDecoder(rows=4, vocabulary=6, seed=5)
  tokens, scores = compiled(decoding.greedy, toy.step, batch_size=4, max_length=7, end_ids=(EOS,))(toy.cache(1))
  ended = 0
  for row in range(4):
    wanted = []
    while len(wanted) < 7 and EOS not in wanted:
      wanted.append(max(range(6), key=lambda token: toy.log_probs(row, [*wanted, token])[-1]))
    ended += EOS in wanted
    assert tokens[row, 0].tolist() == wanted + [0] * (7 - len(wanted))
  assert 0 < ended < 4  # the claim is about rows that end and rows that do not
  assert scores.tolist() == [[0.0]] * 4


@pytest.mark.parametrize('settings', [{'temperature': 0.0}, {'temperature': 1e-5}, {'topk': 1}, {'topp': 1e-6}])
def test_what_leaves_one_token_equals_greedy(settings):
  toy = ToyDecoder(rows=4, vocabulary=6, seed=5)
  tokens, scores = sample(toy, **settings)
  wanted = compiled(decoding.greedy, toy.step, batch_size=4, max_length=8, end_ids=(EOS,))(toy.cache(1))
  np.testing.assert_array_equal(tokens, wanted[0])
  np.testing.assert_array_equal(scores, wanted[1])


def constant(probabilities):
  """A step whose next-token distribution is constant."""
  logits = jnp.log(jnp.asarray(probabilities, jnp.float32))
  return lambda ids, index, cache: (jnp.broadcast_to(logits, (*ids.shape, logits.size)), cache)


@pytest.mark.parametrize(('settings', 'wanted'), [
  ({}, [0.4, 0.1, 0.3, 0.2]),
  ({'temperature': 0.5}, np.array([0.16, 0.01, 0.09, 0.04]) / 0.3),
  ({'topk': 2}, [4 / 7, 0, 3 / 7, 0]),
  ({'topk': 9}, [0.4, 0.1, 0.3, 0.2]),
  ({'topp': 0.69}, [4 / 7, 0, 3 / 7, 0]),
  ({'topp': 0.71}, [4 / 9, 0, 3 / 9, 2 / 9]),
  ({'topp': 1.0}, [0.4, 0.1, 0.3, 0.2]),
])
def test_tokens_come_as_often_as_their_probabilities_say(settings, wanted):
  tokens, scores = compiled(
    decoding.temperature_sample, constant([0.4, 0.1, 0.3, 0.2]), batch_size=4, num_decodes=2000, max_length=1,
    end_ids=(EOS,), **settings)({}, jax.random.key(6))
  counts = np.bincount(np.asarray(tokens).ravel(), minlength=4)
  wanted = np.asarray(wanted)
  assert np.all(np.abs(counts - 8000 * wanted) <= 5 * np.sqrt(8000 * wanted * (1 - wanted)))
  np.testing.assert_allclose(np.exp(scores), wanted[np.asarray(tokens)[:, :, 0]], rtol=1e-5)


def test_scores_are_log_probabilities_up_to_eos_in_increasing_order():
  toy = ToyDecoder(rows=3, vocabulary=6, seed=7)
  tokens, scores = sample(toy, num_decodes=5)
  for row, decode in np.ndindex(3, 5):
    found = tokens[row, decode]
    length = length_of(found)
    assert not found[length:].any()
    np.testing.assert_allclose(scores[row, decode], toy.log_probs(row, found[:length]).sum(), rtol=1e-5)
  assert np.all(np.diff(scores, axis=1) >= 0)
  assert len({length_of(found) for found in tokens.reshape(15, 8)}) > 2


def test_a_row_draws_the_same_whatever_the_batch():
  toy = ToyDecoder(rows=4, vocabulary=9, seed=8)

  @functools.partial(jax.jit, static_argnames='rows')
  def draw(cache, row_ids, rows):
    return decoding.temperature_sample(
      toy.step, cache, jax.random.key(0), batch_size=rows, num_decodes=2, max_length=8, end_ids=(EOS,), row_ids=row_ids)

  tokens, scores = sample(toy, num_decodes=2)
  assert len({length_of(found) for found in tokens.reshape(8, 8)}) > 2  # the rows end at different steps
  for row in range(4):
    alone = draw(toy.cache(2, [row]), np.array([row]), rows=1)
    np.testing.assert_array_equal(alone[0][0], tokens[row])
    np.testing.assert_allclose(alone[1][0], scores[row], rtol=1e-5)


def test_the_noise_differs_by_key_row_decode_and_step():
  draw = compiled(decoding.temperature_sample, constant([1 / 64] * 64), batch_size=2, num_decodes=3, max_length=5,
                  end_ids=(-1,))
  tokens = [np.asarray(draw({}, jax.random.key(seed))[0]) for seed in (0, 1)]
  draws = np.stack(tokens).reshape(-1, 5)  # keys, rows and decodes
  assert len({tuple(row) for row in draws}) == 12
  assert len({tuple(column) for column in draws.T}) == 5


def test_sampling_stops_when_all_rows_have_ended():
  indices = []

  def step(ids, index, cache):
    jax.debug.callback(lambda i: indices.append(int(i)), index)
    logits = jnp.where(jnp.arange(4) == jnp.where(index == 2, EOS, 3), 0.0, -50.0)
    return jnp.broadcast_to(logits, (*ids.shape, 4)), cache

  tokens, _ = decoding.temperature_sample(
    step, {}, jax.random.key(0), batch_size=2, max_length=30, end_ids=(EOS,), pad_id=7)
  jax.effects_barrier()
  assert len(indices) == 3
  assert tokens.tolist() == [[[3, 3, EOS] + [7] * 27]] * 2


def test_a_row_that_is_not_active_comes_back_empty():
  tokens, scores = decoding.greedy(
    constant([0.1, 0.1, 0.7, 0.1]), {}, batch_size=3, max_length=4, end_ids=(EOS,), pad_id=9,
    active=np.array([True, False, True]))
  assert tokens.tolist() == [[[2] * 4], [[9] * 4], [[2] * 4]]
  assert scores.tolist() == [[0.0]] * 3


@pytest.mark.parametrize('mass', [0.05, 0.5, 0.9, 0.999])
def test_topp_keeps_the_smallest_set_that_reaches_the_mass(mass):
  logits = np.random.default_rng(9).normal(size=(3, 2, 50)).astype('float32') * 3
  kept = np.asarray(keep_topp(logits, mass)) == logits
  probabilities = np.exp(logits.astype('float64'))
  probabilities /= probabilities.sum(-1, keepdims=True)
  for place in np.ndindex(3, 2):
    order = np.argsort(-probabilities[place])
    needed = np.searchsorted(np.cumsum(probabilities[place][order]), mass) + 1
    assert set(np.flatnonzero(kept[place])) == set(order[:needed])


def test_topk_keeps_the_largest():
  logits = jnp.array([[3.0, 1.0, 2.0, 0.0], [0.0, 5.0, 5.0, 1.0]])
  assert (keep_topk(logits, 2) == logits).tolist() == [[True, False, True, False], [False, True, True, False]]


def test_settings_that_make_no_sense_are_errors_that_say_what_to_do():
  toy = ToyDecoder(rows=2, vocabulary=5)
  with pytest.raises(ValueError, match=r'topp=90\.0'):
    sample(toy, topp=90.0)
  with pytest.raises(ValueError, match='needs a key'):
    decoding.temperature_sample(toy.step, toy.cache(1), None, batch_size=2, max_length=3, end_ids=(EOS,))
  with pytest.raises(ValueError, match='Make the cache for this batch_size'):
    decoding.temperature_sample(
      toy.step, toy.cache(2), jax.random.key(0), batch_size=2, max_length=3, end_ids=(EOS,), num_decodes=3)


@pytest.mark.parametrize('count', [1, 511, 512, 1300])
def test_the_largest_of_many_logits_is_the_first_of_its_size(count):
  logits = np.random.default_rng(count).integers(-9, 9, (50, 1, count)).astype(np.float32)  # most have several
  assert first_of_largest(jnp.asarray(logits)).tolist() == logits.argmax(axis=-1).tolist()


def test_of_equal_logits_the_first_is_the_largest():
  logits = jnp.asarray([[0.0, 2.0, 2.0], [-jnp.inf, -jnp.inf, -jnp.inf], [1.0, -1.0, 3.0]])
  assert first_of_largest(logits).tolist() == jnp.argmax(logits, axis=-1).tolist() == [1, 0, 2]
